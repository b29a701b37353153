delete from credential where namespace = $1 and name = $2 and uid <> $3
