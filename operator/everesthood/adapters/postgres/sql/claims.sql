-- Part of `claim` and `work`: claim due runs of queues.
--   $1-$3 wants: instance, revision, number (each pair once)      $4 lease in seconds
-- Of the outputs of earlier attempts it brings CLAIM_OUTPUT_BYTES of domain/steps.py: others are not even read.
-- SKIP LOCKED and MATERIALIZED keep concurrent claims apart and the plan as it was measured.
wants as (
    select w.k, w.instance_uid, w.revision, w.n,
           coalesce(i.current_revision = w.revision, false) and not i.suspended as takes_new,
           exists (select from run_limit l
                   where l.scope = any(i.scopes)
                     and (l.concurrency is not null or l.runs is not null or l.held_until > now())) as is_limited
    from unnest($1::text[], $2::text[], $3::int[]) with ordinality w(instance_uid, revision, n, k)
    join instance i on i.uid = w.instance_uid and i.deleted_at is null and i.paused_at is null and not i.stopped
), claimed as materialized (
    select x.id, w.k, w.revision from wants w cross join lateral (
        select id from run r
        where w.takes_new and not w.is_limited and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
          and (r.expires_at is null or r.expires_at > now() or r.started_at is not null)
          and (r.revision is null or r.revision = w.revision)
        order by r.priority, r.due_at, r.id limit w.n for update skip locked) x
    union all
    select x.id, w.k, w.revision from wants w cross join lateral (
        select id from run r
        where not w.takes_new and not w.is_limited and r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now()
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
              extract(epoch from r.started_at - now())::float8 + r.max_run_seconds as seconds_left, r.failed_attempt
)
select k::int, id::text, null as instance_uid, fence, attempt, input::text, request_id, seconds_left, priority, due_at,
-- include: checkpoints
from started
union all  -- queues that a limit may keep back: what of them may start is decided after this
select -2, k::text, instance_uid, 0, null, null, null, null, 0::smallint, now(), null from wants w
where is_limited and exists (
    select from run r where r.instance_uid = w.instance_uid and r.state = 0 and r.due_at <= now())
