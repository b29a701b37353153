-- What was accepted earlier under the same idempotency keys.
select i.instance_uid, i.key, i.digest, i.run_id::text as run
from idempotency i
join unnest($1::text[], $2::text[]) t(instance_uid, key) using (instance_uid, key)
