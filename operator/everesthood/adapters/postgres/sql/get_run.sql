select id::text, namespace, instance, instance_uid, state, input::text, output::text, reason, message,
       revision, attempt, fence, requested_by, request_id, created_at, started_at, finished_at,
       cancel_requested, failures, nullif(due_at, 'infinity') as due_at, priority, expires_at, replay_of::text,
       template, labels::text, schedule, fire_at,
       (select x.id::text from run x where x.replay_of = run.id order by x.id desc limit 1) as replayed_by,
       case when state in (0, 1, 2) then (
           select json_agg(json_build_object('step', a.step, 'message', a.message, 'asked_at', a.asked_at,
                                             'deadline_at', a.deadline_at) order by a.asked_at, a.step)::text
           from approval a where a.run_id = run.id and a.verdict is null) end as approvals
from run where id = $1::uuid and namespace = $2
