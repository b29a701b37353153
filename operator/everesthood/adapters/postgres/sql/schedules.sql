select name, cron, time_zone, at, overlap, missed, max_missed, jitter_seconds, suspended, input::text,
       active, next_fire_at, last_fire_at
from schedule where instance_uid = $1 order by name
