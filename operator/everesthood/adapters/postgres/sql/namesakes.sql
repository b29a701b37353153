select uid from instance where namespace = $1 and name = $2 and uid <> $3 and deleted_at is null
