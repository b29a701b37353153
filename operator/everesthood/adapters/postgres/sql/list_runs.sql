-- Newest first: ids carry the time. Without inputs and outputs. At most $5 rows of the walk are looked at, so
-- that no filter takes long, however little it leaves.
select id::text, namespace, instance, instance_uid, state, '' as input, null as output, reason, message,
       revision, attempt, fence, requested_by, request_id, created_at, started_at, finished_at,
       cancel_requested, failures, nullif(due_at, 'infinity') as due_at, priority, expires_at, replay_of::text,
       template, labels::text, schedule, fire_at
from ({walk}) walked
where ($2::text is null or instance = $2)
  and ($6::text is null or labels @> $6::jsonb)
  and (cardinality($7::smallint[]) = 0 or state = any($7))
  and ($8::text is null or reason = $8)
  and ($9::text is null or template = $9)
  and ($10::text is null or revision = $10)
  and ($11::text is null or input::text ilike $11 or output::text ilike $11)
order by id desc limit $12
