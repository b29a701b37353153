-- One call of many workers: write what is done where the fence still holds, then claim.
--   $1-$11  ends:  run, fence, instance, state, state if a cancellation was asked for, output, reason, message,
--                  whether it is a failure that may pass, the wait that was asked for, a chance from 0 to 1
--   $12-$22  steps: run, fence, instance, name, state, output, reason, message, tries, started, finished
--   $23-$29 log:   run, fence, instance, at, level, step, message
--   $30-$32 wants: instance, revision, number (each pair once)      $33 lease in seconds
-- SKIP LOCKED and MATERIALIZED keep concurrent claims apart and the plan as it was measured.
with done as (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::smallint[], $5::smallint[],
                         $6::text[], $7::text[], $8::text[], $9::boolean[], $10::float8[], $11::float8[])
        t(id, fence, instance_uid, state, state_if_cancelled, output, reason, message, transient, wait, chance)
), noted as (
    select * from unnest($12::uuid[], $13::int[], $14::text[], $15::text[], $16::smallint[], $17::text[],
                         $18::text[], $19::text[], $20::int[], $21::float8[], $22::float8[])
        with ordinality
        t(id, fence, instance_uid, name, state, output, reason, message, tries, started_at, finished_at, n)
), said as (
    select * from unnest($23::uuid[], $24::int[], $25::text[], $26::float8[], $27::text[], $28::text[],
                         $29::text[]) with ordinality
        t(id, fence, instance_uid, at, level, step, message, n)
), held as materialized (
    select h.* from (
        select id, fence, instance_uid from done union select id, fence, instance_uid from noted order by id) q
    cross join lateral (  -- one row at a time by primary key, in the order of ids, so that no two calls deadlock
        select r.id, r.fence, r.attempt, r.instance_uid, r.cancel_requested, r.reason, r.message, r.failures,
               r.retry_max_attempts, r.retry_initial_seconds, r.retry_max_seconds,
               r.started_at + r.max_run_seconds * interval '1 second' as deadline_at
        from run r
        where r.id = q.id and r.fence = q.fence and r.instance_uid = q.instance_uid and r.state = 1
        limit 1 for update) h
), ended as (  -- `again` is what after_failure and retry_pause of domain/runs.py say
    select h.id, d.output, h.cancel_requested and d.state_if_cancelled = 5 as obeyed, f.again, f.due_at,
           case when f.again then 0 when h.cancel_requested then d.state_if_cancelled else d.state end as state,
           (d.state = 4)::int as failed,
           d.reason, d.message, h.reason as cancel_reason, h.message as cancel_message
    from done d
    join held h on h.id = d.id and h.fence = d.fence and h.instance_uid = d.instance_uid
    cross join lateral (
        select p.due_at, d.transient and not h.cancel_requested and h.failures + 1 < h.retry_max_attempts
                         and p.due_at < h.deadline_at as again
        from (select now() + interval '1 second' * case
                  when d.wait is null
                  then d.chance * least(h.retry_max_seconds, h.retry_initial_seconds * 2 ^ least(h.failures, 30))
                  else d.wait + d.chance * h.retry_initial_seconds end as due_at) p) f
), finished as (
    update run r
    set state = e.state,
        attempt = r.attempt - (e.state = 0 and not e.again)::int,
        failures = r.failures + e.failed,
        failed_attempt = case when e.again then r.attempt else r.failed_attempt end,
        output = case when e.state = 3 then e.output::json end,
        reason = case when e.obeyed then coalesce(e.cancel_reason, 'Cancelled') else e.reason end,
        message = case when e.obeyed then e.cancel_message else e.message end,
        due_at = case when e.again then e.due_at when e.state = 0 then now() else r.due_at end,
        lease_until = null,
        finished_at = case when e.state <> 0 then now() end
    from ended e where r.id = e.id
), stepped as (
    insert into step (run_id, name, state, output, reason, message, tries, attempt, started_at, finished_at)
    select n.id, n.name, n.state, n.output::json, n.reason, n.message, n.tries, h.attempt,
           to_timestamp(nullif(n.started_at, 0)), to_timestamp(nullif(n.finished_at, 0))
    from noted n
    join held h on h.id = n.id and h.fence = n.fence and h.instance_uid = n.instance_uid
    order by n.id, n.n
    on conflict (run_id, name) do update
    set state = excluded.state, output = excluded.output, reason = excluded.reason,
        message = excluded.message, tries = excluded.tries, attempt = excluded.attempt,
        started_at = excluded.started_at, finished_at = excluded.finished_at
), logged as (
    insert into run_log (run_id, at, level, step, message)
    select s.id, to_timestamp(s.at), s.level, s.step, s.message
    from said s
    join run r on r.id = s.id and r.fence = s.fence and r.instance_uid = s.instance_uid
    order by s.n
    returning run_id, (select r.instance_uid from run r where r.id = run_id) as instance_uid
), wants as (
    select w.k, w.instance_uid, w.revision, w.n,
           coalesce(i.current_revision = w.revision, false) and not i.suspended as takes_new
    from unnest($30::text[], $31::text[], $32::int[]) with ordinality w(instance_uid, revision, n, k)
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
        lease_until = now() + $33::int * interval '1 second', started_at = coalesce(r.started_at, now()),
        reason = null, message = ''
    from claimed c where r.id = c.id
    returning c.k, r.id, r.fence, r.attempt, r.input, r.request_id, r.due_at, r.priority,
              extract(epoch from r.started_at - now())::float8 + r.max_run_seconds as seconds_left, r.failed_attempt
)
select k::int, id::text, null as instance_uid, fence, attempt, input::text, request_id, seconds_left, priority, due_at,
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
union all
select 0, id::text, instance_uid, fence, null, null, null, null, 0::smallint, now(), null from held
union all
select -1, run_id::text, instance_uid, 0, null, null, null, null, 0::smallint, now(), null from (select distinct run_id, instance_uid from logged) l
order by 1, 9, 10, 2
