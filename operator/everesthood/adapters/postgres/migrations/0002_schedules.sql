-- Schedules of instances: when each is due next. A run may belong to a schedule and to one of its times.

create table schedule (
    instance_uid   text not null,
    name           text not null,
    cron           text,
    time_zone      text not null,
    at             timestamptz,
    overlap        text not null,
    missed         text not null,
    max_missed     int not null,
    jitter_seconds int not null,
    suspended      boolean not null,
    input          json not null,
    active         boolean not null,    -- neither it nor its instance is suspended, and a revision can run
    version        bigint not null default 1,
    next_fire_at   timestamptz,
    next_due_at    timestamptz,         -- next_fire_at with its jitter
    last_fire_at   timestamptz,
    primary key (instance_uid, name)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
create index schedule_due on schedule (next_due_at) where active;

alter table run add column schedule text, add column fire_at timestamptz;

-- One run per time of a schedule, however many schedulers there are.
create unique index run_fire on run (instance_uid, schedule, fire_at) where schedule is not null and fire_at is not null;
create index run_schedule_open on run (instance_uid, schedule) where schedule is not null and state in (0, 1, 2);
create index run_held on run (instance_uid, schedule, fire_at) where state = 0 and due_at = 'infinity';
