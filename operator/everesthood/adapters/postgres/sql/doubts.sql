-- Checkpoints of a run that began and did not end.
select name from step where run_id = $1::uuid and state = 0 order by seq
