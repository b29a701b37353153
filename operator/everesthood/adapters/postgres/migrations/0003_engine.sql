-- Runs that are tried again after a failure, wait for a bounded time, have a priority, repeat another run.
-- `priority` holds the negative of what was asked for, so that the index of due runs gives the greatest first.

alter table run
    add column failures              int not null default 0,
    add column failed_attempt        int not null default 0,
    add column retry_max_attempts    int,  -- null: a failure is final
    add column retry_initial_seconds int,
    add column retry_max_seconds     int,
    add column expires_at            timestamptz,
    add column replay_of             uuid,
    add column template              text,
    add column labels                jsonb,
    add column dedupe_key            text;

create index run_expires on run (expires_at) where state = 0 and started_at is null and expires_at is not null;
create index run_dedupe on run (instance_uid, dedupe_key, id) where dedupe_key is not null;
create index run_dedupe_open on run (instance_uid, dedupe_key, id)
    where dedupe_key is not null and state in (0, 1, 2);
create index run_failed on run (namespace, id) where state in (4, 5, 6, 7);

-- The labels of runs, to find runs by: in the row they are to be shown. Only runs with labels cost anything.
create table run_label (
    namespace text not null,
    name      text not null,
    value     text not null,
    run_id    uuid not null,
    primary key (namespace, name, value, run_id)
);
