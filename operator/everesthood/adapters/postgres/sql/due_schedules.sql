-- Locks schedules whose time has come, those first that have waited longest.
with due as materialized (
    select * from schedule
    where active and next_due_at <= now()
      and not exists (select from instance i where i.uid = instance_uid and i.stopped)
    order by next_due_at limit $1 for update skip locked
)
select s.instance_uid, s.name, s.cron, s.time_zone, s.at, s.overlap, s.missed, s.max_missed, s.jitter_seconds,
       s.suspended, s.input::text, s.next_fire_at, i.namespace, i.name as instance,
       i.current_revision as revision, (r.spec -> 'queue')::text as queue, now() as now,
       (select count(*) from run o
        where o.instance_uid = s.instance_uid and o.schedule = s.name and o.state in (0, 1, 2)) as open_runs
from due s
join instance i on i.uid = s.instance_uid and i.deleted_at is null
left join revision r on r.namespace = i.namespace and r.digest = i.current_revision
