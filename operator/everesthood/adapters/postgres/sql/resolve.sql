-- Writes what was decided about a run in doubt under its lock: $2 is its new state, $5 the checkpoint that took
-- effect, $7 those to be forgotten. A run that goes on has its whole time again.
with forgotten as (
    delete from step where run_id = $1::uuid and name = any($7::text[])
), done as (
    update step set seq = default, state = 1, output = $6::json, size = coalesce(octet_length($6::text), 0), reason = '', message = '', finished_at = now()
    where run_id = $1::uuid and name = $5::text
), changed as (
    update run
    set state = $2::smallint, reason = $3, message = $4,
        max_run_seconds = max_run_seconds
            + case when $2::smallint = 0 then ceil(extract(epoch from now() - coalesce(started_at, now())))::int else 0 end,
        due_at = case when $2::smallint = 0 then now() else due_at end,
        finished_at = case $2::smallint when 0 then null when 4 then now() else finished_at end
    where id = $1::uuid returning id, namespace
)
insert into audit (namespace, actor, action, target, request_id)
select namespace, $8, $9, $10, $11 from changed
