select name, (array['started', 'succeeded', 'skipped', 'failed'])[state + 1] as state,
       coalesce(output::text, 'null') as output, reason, message, tries, attempt, started_at, finished_at
from step where run_id = $1::uuid order by seq
