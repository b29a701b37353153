-- Plans the next times of schedules that were dealt with.
update schedule s
set next_fire_at = a.next_fire_at, next_due_at = a.next_due_at,
    last_fire_at = coalesce(a.last_fire_at, s.last_fire_at)
from unnest($1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::timestamptz[])
    a(instance_uid, name, next_fire_at, next_due_at, last_fire_at)
where s.instance_uid = a.instance_uid and s.name = a.name
