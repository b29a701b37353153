-- One call of many workers: write what is done where the fence still holds, then claim.
--   $1-$4  wants and lease: see `claims`
--   $5-$15  ends:  run, fence, instance, state, state if a cancellation was asked for, output, reason, message,
--                  whether it is a failure that may pass, the wait that was asked for, a chance from 0 to 1;
--                  these three are empty where nothing is such a failure
--   $16-$26 steps: run, fence, instance, name, state, output, reason, message, tries, started, finished
--   $27-$33 log:   run, fence, instance, at, level, step, message
with done as (
    select * from unnest($5::uuid[], $6::int[], $7::text[], $8::smallint[], $9::smallint[],
                         $10::text[], $11::text[], $12::text[], $13::boolean[], $14::float8[], $15::float8[])
        t(id, fence, instance_uid, state, state_if_cancelled, output, reason, message, transient, wait, chance)
), noted as (
    select * from unnest($16::uuid[], $17::int[], $18::text[], $19::text[], $20::smallint[], $21::text[],
                         $22::text[], $23::text[], $24::int[], $25::float8[], $26::float8[])
        with ordinality
        t(id, fence, instance_uid, name, state, output, reason, message, tries, started_at, finished_at, n)
), said as (
    select * from unnest($27::uuid[], $28::int[], $29::text[], $30::float8[], $31::text[], $32::text[],
                         $33::text[]) with ordinality
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
        select p.due_at, coalesce(d.transient, false) and not h.cancel_requested and h.failures + 1 < coalesce(h.retry_max_attempts, 1)
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
),
-- include: claims
union all
select 0, id::text, instance_uid, fence, null, null, null, null, 0::smallint, now(), null from held
union all
select -1, run_id::text, instance_uid, 0, null, null, null, null, 0::smallint, now(), null from (select distinct run_id, instance_uid from logged) l
order by 1, 9, 10, 2
