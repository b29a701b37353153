       -- Part of `claims` and `start`: what earlier attempts did, outputs only as far as a claim carries them.
       case when fence > 1 then (
           select json_agg(json_build_object(
                      'name', s.name,
                      'state', (array['started', 'succeeded', 'skipped', 'failed'])[s.state + 1],
                      'output', case when s.sum <= 65536 then s.output end, 'is_held_back', s.sum > 65536,
                      'reason', s.reason, 'message', s.message, 'tries', s.tries,
                      'started_at', coalesce(extract(epoch from s.started_at), 0)::float8,
                      'finished_at', coalesce(extract(epoch from s.finished_at), 0)::float8) order by s.seq)::text
           from (select *, sum(size) over (order by seq) as sum from step
                 where run_id = started.id and not (state = 3 and attempt <= started.failed_attempt)) s) end as steps
