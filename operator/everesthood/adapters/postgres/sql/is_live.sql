select exists (select from instance where uid = $1 and deleted_at is null)
