-- Workers that follow the work.

-- Revisions that nobody watches: whoever accepts work for one tells the controller.
alter table instance add column quiet text[] not null default '{}';

-- How many workers of a revision may leave, and how many were taken at their word.
create table scale_in (
    instance_uid text not null references instance (uid) on delete cascade,
    revision     text not null,
    wanted       int not null,
    appointed    int not null default 0,
    drains       boolean not null,
    asked_at     timestamptz not null default now(),
    primary key (instance_uid, revision)
);

-- Workers that claim nothing any more; `left_at` once they hold nothing either.
create table leaver (
    instance_uid text not null references instance (uid) on delete cascade,
    revision     text not null,
    pod          text not null,
    left_at      timestamptz,
    primary key (instance_uid, revision, pod)
);

create index run_waiting_instance on run (instance_uid, revision) where state = 2;
