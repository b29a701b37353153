delete from template where namespace = $1 and name = $2 and uid <> $3
