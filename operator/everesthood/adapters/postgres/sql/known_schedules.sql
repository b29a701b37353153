-- What is published of an instance that is still the one of that generation, with the moment.
select name, cron, time_zone, at, overlap, missed, max_missed, jitter_seconds, suspended, input::text,
       active, next_fire_at, next_due_at
from schedule where instance_uid = $1 order by name for update
