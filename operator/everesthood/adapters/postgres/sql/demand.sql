-- What there is to do for instances, by revision, and which of their workers are to leave.
--   $1 instances   $2 how many due runs of each are worth counting
with asked as materialized (
    select i.uid, i.current_revision, i.suspended, i.paused_at is not null or i.stopped as halted, a.most
    from unnest($1::text[], $2::int[]) a(uid, most) join instance i on i.uid = a.uid and i.deleted_at is null
), due as (
    select a.uid, coalesce(r.revision, a.current_revision) as revision, count(*) as due, min(r.due_at) as oldest
    from asked a cross join lateral (
        select q.revision, q.due_at from run q
        where not a.halted and q.instance_uid = a.uid and q.state = 0 and q.due_at <= now()
          and (q.expires_at is null or q.expires_at > now() or q.started_at is not null)
          and (q.revision is not null or (a.current_revision is not null and not a.suspended))
        order by q.priority, q.due_at, q.id limit a.most) r
    group by 1, 2
), running as (
    select instance_uid as uid, revision, count(*) as running
    from run where state = 1 and instance_uid = any($1) group by 1, 2
), waiting as (
    select instance_uid as uid, revision, count(*) as waiting
    from run where state = 2 and instance_uid = any($1) and revision is not null group by 1, 2
), leaving as (
    select instance_uid as uid, revision, array_agg(pod order by pod) as pods,
           array_agg(pod order by pod) filter (where left_at is not null) as gone
    from leaver where instance_uid = any($1) group by 1, 2
), wish as (
    select instance_uid as uid, revision, wanted, drains from scale_in where instance_uid = any($1)
)
select uid, revision, coalesce(due, 0)::int as due,
       greatest(0, coalesce(extract(epoch from now() - oldest), 0))::float8 as oldest_seconds,
       coalesce(running, 0)::int as running, coalesce(waiting, 0)::int as waiting,
       coalesce(pods, '{}') as leaving, coalesce(gone, '{}') as "left",
       coalesce(wanted, 0) as asked, coalesce(drains, false) as drains
from due full join running using (uid, revision)
         full join waiting using (uid, revision)
         full join leaving using (uid, revision)
         full join wish using (uid, revision)
where uid in (select uid from asked)
