-- What limits the starts of runs. A scope is what a limit counts; its name says the level:
-- platform, organization/NAMESPACE, template/INSTANCE-UID, instance/INSTANCE-UID, credential/NAMESPACE/NAME.
-- The row `organization` is what an organisation gets that has no row yet.

create table run_limit (
    scope          text primary key,
    concurrency    int,
    runs           int,
    period_seconds int,
    burst          int,
    weight         int not null default 1,
    next_at        timestamptz,     -- GCRA's theoretical arrival time
    held_until     timestamptz
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

create function limit_scopes(uid text, namespace text, bindings jsonb) returns text[]
language sql immutable parallel safe
as $$
    select array['platform', 'organization/' || namespace, 'template/' || uid, 'instance/' || uid]
           || array(select distinct 'credential/' || namespace || '/' || b.value
                    from jsonb_each_text(bindings) b order by 1)
$$;

alter table instance
    add column scopes text[] not null generated always as (limit_scopes(uid, namespace, bindings)) stored;

-- Only runs that a limit counts are in the index, so no other pays for it.
alter table run add column limited boolean not null default false;
create index run_limited on run (namespace, instance_uid) where state = 1 and limited;

-- Organisations whose runs the platform's limit kept back, so that a place that comes free waits for them.
create table kept_back (
    namespace text primary key,
    runs      int not null,
    at        timestamptz not null
);
