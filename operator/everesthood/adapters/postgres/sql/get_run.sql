select id::text, namespace, instance, instance_uid, state, input::text, output::text, reason, message,
       revision, attempt, fence, requested_by, request_id, created_at, started_at, finished_at,
       cancel_requested, failures, nullif(due_at, 'infinity') as due_at, priority, expires_at, replay_of::text,
       template, labels::text, schedule, fire_at
from run where id = $1::uuid and namespace = $2
