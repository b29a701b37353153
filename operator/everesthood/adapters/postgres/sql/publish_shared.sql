-- Writes what the installation allows, as far as it differs: for all organisations together, for each that has an
-- instance, and for those that are named.
with told as (
    select * from unnest($1::text[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[])
        t(scope, concurrency, runs, period_seconds, burst, weight)
), wanted as (
    select * from told
    union all
    select 'organization/' || o.namespace, t.concurrency, t.runs, t.period_seconds, t.burst, t.weight
    from (select distinct namespace from instance where deleted_at is null) o
    join told t on t.scope = 'organization'
    where 'organization/' || o.namespace not in (select scope from told)
), gone as (
    delete from run_limit
    where (scope in ('platform', 'organization') or scope like 'organization/%')
      and scope not in (select scope from wanted)
)
insert into run_limit as l (scope, concurrency, runs, period_seconds, burst, weight)
select scope, concurrency, runs, period_seconds, burst, weight from wanted order by scope
on conflict (scope) do update
set concurrency = excluded.concurrency, runs = excluded.runs, period_seconds = excluded.period_seconds,
    burst = excluded.burst, weight = excluded.weight
where (l.concurrency, l.runs, l.period_seconds, l.burst, l.weight)
      is distinct from (excluded.concurrency, excluded.runs, excluded.period_seconds, excluded.burst, excluded.weight)
returning scope
