select namespace, stopped_at, stopped_by, message, cancels from stopped_organization
where $1::text is null or namespace = $1
