-- The record: what was asked for, what became of it, and what the controller has published.

create table instance (
    uid              text primary key,
    namespace        text not null,
    name             text not null,
    generation       bigint not null,
    template         text not null,
    service_account  text not null,
    current_revision text,
    config           json not null,
    bindings         jsonb not null default '{}',
    suspended        boolean not null default false,
    queue_ready      boolean not null default false,
    deleted_at       timestamptz
);
create unique index instance_name on instance (namespace, name) where deleted_at is null;

create table revision (
    namespace text not null,
    digest    text not null,
    template  text not null,
    spec      json not null,
    primary key (namespace, digest)
);

create table credential (
    uid               text primary key,
    namespace         text not null,
    name              text not null,
    generation        bigint not null,
    type              text not null,
    header            text not null default '',
    secret_name       text not null,
    secret_key        text not null,
    hosts             text[] not null,
    allowed_instances text[] not null,
    reason            text,
    fingerprint       text not null default '',
    changed_at        timestamptz,
    observed_at       timestamptz
);
create unique index credential_name on credential (namespace, name);

-- state: 0 queued, 1 running, 2 waiting, 3 succeeded, 4 dead, 5 cancelled, 6 expired, 7 ambiguous
create table run (
    id               uuid primary key,
    namespace        text not null,
    instance         text not null,
    instance_uid     text not null,
    state            smallint not null default 0,
    priority         smallint not null default 0,
    due_at           timestamptz not null default now(),
    lease_until      timestamptz,
    revision         text,
    attempt          int not null default 0,
    fence            int not null default 0,
    max_attempts     int not null,
    max_run_seconds  int not null,
    cancel_requested boolean not null default false,
    input            json not null,
    output           json,
    reason           text,
    message          text not null default '',
    requested_by     text not null,
    request_id       text not null,
    created_at       timestamptz not null default now(),
    started_at       timestamptz,
    finished_at      timestamptz
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);

create index run_due        on run (instance_uid, priority, due_at, id) where state = 0;
create index run_due_pinned on run (instance_uid, revision, priority, due_at, id) where state = 0 and revision is not null;
create index run_lease      on run (lease_until) include (instance_uid, revision) where state = 1;
create index run_namespace  on run (namespace, id);
create index run_instance   on run (namespace, instance, id);

-- state: 0 started, 1 succeeded, 2 skipped, 3 failed
create table step (
    run_id      uuid not null,
    name        text not null,
    seq         bigint generated always as identity,
    state       smallint not null,
    output      json,
    reason      text not null default '',
    message     text not null default '',
    tries       int not null default 1,
    attempt     int not null,
    started_at  timestamptz,
    finished_at timestamptz,
    primary key (run_id, name)
) with (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);

create table run_log (
    run_id  uuid not null,
    seq     bigint generated always as identity,
    at      timestamptz not null,
    level   text not null,
    step    text not null default '',
    message text not null,
    primary key (run_id, seq)
);

create table idempotency (
    instance_uid text not null,
    key          text not null,
    digest       bytea not null,
    run_id       uuid not null,
    created_at   timestamptz not null default now(),
    primary key (instance_uid, key)
);

create table audit (
    id         bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    namespace  text not null,
    actor      text not null,
    action     text not null,
    target     text not null,
    request_id text not null default ''
);
