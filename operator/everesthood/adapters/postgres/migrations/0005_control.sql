-- What people decide: questions that runs wait with, queues that are paused, organisations that are stopped.

-- One question a step of a run, asked once. verdict: null while it is open, approved, rejected or expired.
create table approval (
    run_id      uuid not null,
    step        text not null,
    namespace   text not null,
    message     text not null,
    on_reject   text not null,
    asked_at    timestamptz not null default now(),
    deadline_at timestamptz not null,
    verdict     text,
    decided_at  timestamptz,
    decided_by  text not null default '',
    comment     text not null default '',
    primary key (run_id, step)
);
create index approval_open on approval (deadline_at) where verdict is null;

alter table run
    add column answered  boolean not null default false,  -- a question was decided while the run did not wait
    add column cancel_by timestamptz;                     -- when a cancelled run ends, whatever its worker does
create index run_waiting on run (namespace, id) where state = 2;
create index run_cancel on run (cancel_by) where state = 1 and cancel_by is not null;
create index run_replay on run (replay_of, id) where replay_of is not null;

-- `stopped` says of each instance what `stopped_organization` says of its namespace: who accepts or claims
-- looks at the instance's row anyway.
alter table instance
    add column paused_at timestamptz,
    add column paused_by text not null default '',
    add column stopped   boolean not null default false;

create table stopped_organization (
    namespace  text primary key,
    stopped_at timestamptz not null default now(),
    stopped_by text not null,
    message    text not null,
    cancels    boolean not null
);
