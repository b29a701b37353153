-- Runs that are tried again after a failure.

alter table run
    add column failures              int not null default 0,
    add column failed_attempt        int not null default 0,
    add column retry_max_attempts    int not null default 1,
    add column retry_initial_seconds int not null default 10,
    add column retry_max_seconds     int not null default 600;
