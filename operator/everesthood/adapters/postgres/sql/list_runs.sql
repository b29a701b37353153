-- Newest first: ids carry the time. Without inputs and outputs.
select id::text, namespace, instance, instance_uid, state, '' as input, null as output, reason, message,
       revision, attempt, fence, requested_by, request_id, created_at, started_at, finished_at,
       cancel_requested, failures, nullif(due_at, 'infinity') as due_at, priority, expires_at, replay_of::text, template, labels::text, schedule, fire_at
from run
where namespace = $1
  and ($2::text is null or instance = $2)
  and (cardinality($3::smallint[]) = 0 or state = any($3))
  and ($4::uuid is null or id < $4)
  and ($6::text is null or reason = $6)
order by id desc limit $5
