delete from instance where uid = any($1::text[]) and deleted_at is not null returning uid
