-- Ends what waits of a deleted instance and marks what runs; $2 and $3 are the reason and the sentence.
update run
set state = case when state = 1 then 1 else 5 end,
    cancel_requested = true, reason = $2, message = $3,
    finished_at = case when state <> 1 then now() end,
    cancel_by = now() + $4::float8 * interval '1 second'
where instance_uid = $1 and state in (0, 1, 2)
returning id::text
