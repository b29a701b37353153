select queue_ready from instance where uid = $1 and deleted_at is null
