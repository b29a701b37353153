-- Writes what was decided for questions under the locks of their runs, each run once: the question, its step,
-- the run unless its state stays (null), and who did it. The time that a run waited is not its own.
with said as (
    select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::smallint[], $7::text[],
                         $8::text[], $9::text[], $10::smallint[], $11::text[], $12::text[], $13::text[], $14::text[])
        t(run_id, step, verdict, decided_by, comment, step_state, output,
          reason, message, state, run_reason, run_message, action, request_id)
), decided as (
    update approval a
    set verdict = s.verdict, decided_at = now(), decided_by = s.decided_by, comment = s.comment
    from said s where a.run_id = s.run_id and a.step = s.step
), stepped as (
    insert into step (run_id, name, state, output, size, reason, message, attempt, started_at, finished_at)
    select s.run_id, s.step, s.step_state, s.output::json, coalesce(octet_length(s.output), 0), s.reason, s.message, r.attempt + 1, a.asked_at, now()
    from said s join run r on r.id = s.run_id join approval a on a.run_id = s.run_id and a.step = s.step
    on conflict (run_id, name) do update
    set seq = default, state = excluded.state, output = excluded.output, size = excluded.size, reason = excluded.reason, message = excluded.message,
        tries = excluded.tries, attempt = excluded.attempt, started_at = excluded.started_at,
        finished_at = excluded.finished_at
), changed as (
    update run r
    set state = coalesce(s.state, r.state),
        answered = r.answered or s.state is null,
        max_run_seconds = r.max_run_seconds
            + case when r.state = 2 then greatest(ceil(extract(epoch from now() - r.due_at)), 0)::int else 0 end,
        due_at = case when s.state = 0 then now() else r.due_at end,
        reason = case when s.state is null then r.reason else s.run_reason end,
        message = case when s.state is null then r.message else s.run_message end,
        finished_at = case when s.state = 4 then now() end
    from said s where r.id = s.run_id
    returning r.id, r.namespace
)
insert into audit (namespace, actor, action, target, request_id)
select c.namespace, s.decided_by, s.action, 'run/' || s.run_id || '/steps/' || s.step, s.request_id
from said s join changed c on c.id = s.run_id
