delete from schedule where instance_uid = $1 and name <> all($2::text[])
