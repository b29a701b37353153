insert into audit (namespace, actor, action, target, request_id) values ($1, $2, $3, $4, $5)
