-- Writes schedules that are new or differ; $13 and $14 are their next times as they are to be.
insert into schedule as s (instance_uid, name, cron, time_zone, at, overlap, missed, max_missed, jitter_seconds,
                           suspended, input, active, next_fire_at, next_due_at)
select $1, name, cron, time_zone, at, overlap, missed, max_missed, jitter_seconds, suspended, input::json, active,
       next_fire_at, next_due_at
from unnest($2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::int[], $9::int[],
            $10::boolean[], $11::text[], $12::boolean[], $13::timestamptz[], $14::timestamptz[])
    t(name, cron, time_zone, at, overlap, missed, max_missed, jitter_seconds, suspended, input, active,
      next_fire_at, next_due_at)
on conflict (instance_uid, name) do update
set cron = excluded.cron, time_zone = excluded.time_zone, at = excluded.at, overlap = excluded.overlap,
    missed = excluded.missed, max_missed = excluded.max_missed, jitter_seconds = excluded.jitter_seconds,
    suspended = excluded.suspended, input = excluded.input, active = excluded.active, version = s.version + 1,
    next_fire_at = excluded.next_fire_at, next_due_at = excluded.next_due_at
