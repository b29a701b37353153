select uid from instance where deleted_at is null
