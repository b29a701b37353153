-- As `due_bells`, for some instances and without a wait.
select i.uid as instance_uid, i.current_revision as revision
from instance i
where i.uid = any($1::text[]) and i.deleted_at is null and not i.suspended and i.current_revision is not null
  and i.paused_at is null and not i.stopped
  and exists (
      select from run r
      where r.instance_uid = i.uid and r.state = 0 and r.due_at <= now()
        and (r.revision is null or r.revision = i.current_revision))
union
select r.instance_uid, r.revision
from run r join instance i on i.uid = r.instance_uid and i.deleted_at is null and i.paused_at is null and not i.stopped
where r.instance_uid = any($1::text[]) and r.state = 0 and r.revision is not null and r.due_at <= now()
order by 1, 2
