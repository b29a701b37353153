-- The queues of a namespace with what holds them and what is in them; of the due runs, 100,000 are counted.
select i.namespace, i.name as instance, i.suspended, i.current_revision, i.paused_at, i.paused_by,
       s.stopped_at, s.stopped_by, s.message, s.cancels, q.due, q.later, q.oldest_due_at,
       (select count(*) from run r where r.state = 1 and r.instance_uid = i.uid) as running,
       (select count(*) from run r where r.state = 2 and r.namespace = i.namespace and r.instance_uid = i.uid)
           as waiting
from instance i
left join stopped_organization s on s.namespace = i.namespace
cross join lateral (
    select count(*) filter (where due_at <= now()) as due, count(*) filter (where due_at > now()) as later,
           min(due_at) filter (where due_at <= now()) as oldest_due_at
    from (select due_at from run r where r.instance_uid = i.uid and r.state = 0 limit 100000) queued) q
where i.namespace = $1 and ($2::text is null or i.name = $2) and i.deleted_at is null
order by i.name
