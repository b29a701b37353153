update instance set deleted_at = now() where uid = $1 and deleted_at is null returning uid
