-- Locks the due runs that would start if no limit kept them back: as work.sql claims them.
with wants as (
    select w.k, w.instance_uid, w.revision, w.n, i.namespace, i.scopes,
           coalesce(i.current_revision = w.revision, false) and not i.suspended as takes_new
    from unnest($1::text[], $2::text[], $3::int[]) with ordinality w(instance_uid, revision, n, k)
    join instance i on i.uid = w.instance_uid and i.deleted_at is null and i.paused_at is null and not i.stopped
)
select w.k::int, x.id::text, w.namespace, w.scopes, clock_timestamp() as now
from wants w cross join lateral (
    select id from run r
    where w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
      and (r.expires_at is null or r.expires_at > now() or r.started_at is not null)
      and (r.revision is null or r.revision = w.revision)
    order by r.priority, r.due_at, r.id limit w.n for update skip locked) x
union all
select w.k::int, x.id::text, w.namespace, w.scopes, clock_timestamp()
from wants w cross join lateral (
    select id from run r
    where not w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
      and (r.expires_at is null or r.expires_at > now() or r.started_at is not null)
      and r.revision = w.revision
    order by r.priority, r.due_at, r.id limit w.n for update skip locked) x
