-- Keeps the questions of runs that their workers still hold. A question is asked once: it stays as it was.
insert into approval (run_id, step, namespace, message, on_reject, deadline_at)
select a.id, a.step, r.namespace, a.message, a.on_reject, now() + a.seconds * interval '1 second'
from unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[], $7::text[])
    a(id, fence, instance_uid, step, message, seconds, on_reject)
join run r on r.id = a.id and r.fence = a.fence and r.instance_uid = a.instance_uid and r.state = 1
order by a.id, a.step
on conflict do nothing
