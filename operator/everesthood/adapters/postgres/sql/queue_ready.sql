update instance set queue_ready = true
where uid = any($1::text[]) and deleted_at is null and not queue_ready returning uid
