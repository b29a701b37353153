update instance set stopped = $2 where namespace = $1 and deleted_at is null and stopped is distinct from $2
