select uid as instance_uid, deleted_at is null as wanted, queue_ready as ready from instance
