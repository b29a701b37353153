-- Queues with due work that nobody claimed: at most one row per instance and revision. Not those of a credential
-- that is held: their workers know until when.
with awake as (
    select * from instance i
    where not exists (select from run_limit l where l.scope = any(i.scopes) and l.held_until > now())
)
select distinct i.uid as instance_uid, i.current_revision as revision
from awake i
where i.deleted_at is null and not i.suspended and i.current_revision is not null
  and i.paused_at is null and not i.stopped
  and exists (
      select from run r
      where r.instance_uid = i.uid and r.state = 0 and r.due_at <= now() - $1::float8 * interval '1 second'
        and (r.revision is null or r.revision = i.current_revision))
union
select r.instance_uid, r.revision
from run r join awake i on i.uid = r.instance_uid and i.deleted_at is null and i.paused_at is null and not i.stopped
where r.state = 0 and r.revision is not null and r.due_at <= now() - $1::float8 * interval '1 second'
