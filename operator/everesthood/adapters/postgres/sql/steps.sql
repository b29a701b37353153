-- Steps of a run that changed after $2, the first $3 of them; outputs up to $4 bytes.
select seq, name, (array['started', 'succeeded', 'skipped', 'failed'])[state + 1] as state,
       case when size <= $4::int then coalesce(output::text, 'null') end as output, size,
       reason, message, tries, attempt, started_at, finished_at
from step where run_id = $1::uuid and seq > $2 order by seq limit $3
