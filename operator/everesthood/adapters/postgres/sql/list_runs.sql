-- Newest first: ids carry the time. Without inputs and outputs. At most $5 rows of the walk are looked at, so
-- that no filter takes long, however little it leaves.
select id::text, namespace, instance, instance_uid, state, '' as input, null as output, reason, message,
       revision, attempt, fence, requested_by, request_id, created_at, started_at, finished_at,
       cancel_requested, failures, nullif(due_at, 'infinity') as due_at, priority, expires_at, replay_of::text,
       template, labels::text, schedule, fire_at,
       (select x.id::text from run x where x.replay_of = walked.id order by x.id desc limit 1) as replayed_by,
       case when state in (0, 1, 2) then (
           select json_agg(json_build_object('step', a.step, 'message', a.message, 'asked_at', a.asked_at,
                                             'deadline_at', a.deadline_at) order by a.asked_at, a.step)::text
           from approval a where a.run_id = walked.id and a.verdict is null) end as approvals
from ({walk}) walked
where ($2::text is null or instance = $2)
  and ($6::text is null or labels @> $6::jsonb)
  and (cardinality($7::smallint[]) = 0 or state = any($7))
  and ($8::text is null or reason = $8)
  and ($9::text is null or template = $9)
  and ($10::text is null or revision = $10)
  and ($11::text is null or input::text ilike $11 or output::text ilike $11)
  and ($12::boolean is null or exists (select from run x where x.replay_of = walked.id) = $12)
order by id desc limit $13
