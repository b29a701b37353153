select now() as now from instance where uid = $1 and generation = $2 and deleted_at is null for update
