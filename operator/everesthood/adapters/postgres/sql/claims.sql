-- Part of `claim` and `work`: claim due runs of queues.
--   $1-$3 wants: instance, revision, number (each pair once)      $4 lease in seconds
-- SKIP LOCKED and MATERIALIZED keep concurrent claims apart and the plan as it was measured.
wants as (
    select w.k, w.instance_uid, w.revision, w.n,
           coalesce(i.current_revision = w.revision, false) and not i.suspended as takes_new
    from unnest($1::text[], $2::text[], $3::int[]) with ordinality w(instance_uid, revision, n, k)
    join instance i on i.uid = w.instance_uid and i.deleted_at is null
), claimed as materialized (
    select x.id, w.k, w.revision from wants w cross join lateral (
        select id from run r
        where w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
          and (r.expires_at is null or r.expires_at > now() or r.started_at is not null)
          and (r.revision is null or r.revision = w.revision)
        order by r.priority, r.due_at, r.id limit w.n for update skip locked) x
    union all
    select x.id, w.k, w.revision from wants w cross join lateral (
        select id from run r
        where not w.takes_new and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
          and (r.expires_at is null or r.expires_at > now() or r.started_at is not null)
          and r.revision = w.revision
        order by r.priority, r.due_at, r.id limit w.n for update skip locked) x
), started as (
    update run r
    set state = 1, revision = c.revision, fence = r.fence + 1, attempt = r.attempt + 1,
        lease_until = now() + $4::int * interval '1 second', started_at = coalesce(r.started_at, now()),
        reason = null, message = ''
    from claimed c where r.id = c.id
    returning c.k, r.id, r.fence, r.attempt, r.input, r.request_id, r.due_at, r.priority,
              extract(epoch from r.started_at)::float8 + r.max_run_seconds as deadline_at, r.failed_attempt
)
select k::int, id::text, null as instance_uid, fence, attempt, input::text, request_id, deadline_at, priority, due_at,
       case when fence > 1 then (
           select json_agg(json_build_object(
                      'name', s.name,
                      'state', (array['started', 'succeeded', 'skipped', 'failed'])[s.state + 1],
                      'output', s.output, 'reason', s.reason, 'message', s.message, 'tries', s.tries,
                      'started_at', coalesce(extract(epoch from s.started_at), 0)::float8,
                      'finished_at', coalesce(extract(epoch from s.finished_at), 0)::float8) order by s.seq)::text
           from step s
           where s.run_id = started.id and not (s.state = 3 and s.attempt <= started.failed_attempt)) end as steps
from started
