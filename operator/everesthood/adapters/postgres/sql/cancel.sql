-- Writes a cancellation that was decided under the row's lock: $2 is the new state, $7 the worker's grace.
with changed as (
    update run
    set state = $2, cancel_requested = true, reason = $3, message = $4,
        finished_at = case when $2::smallint = 1 then null else now() end,
        cancel_by = now() + $7::float8 * interval '1 second'
    where id = $1::uuid returning namespace, id
)
insert into audit (namespace, actor, action, target, request_id)
select namespace, $5, 'run.cancel', 'run/' || id, $6 from changed
