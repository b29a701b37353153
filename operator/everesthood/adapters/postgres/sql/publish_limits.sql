-- Writes the limits of an instance or a template that was just published, as far as they differ; absent ones go.
with told as (
    select * from unnest($3::text[], $4::int[], $5::int[], $6::int[], $7::int[])
        t(scope, concurrency, runs, period_seconds, burst)
    where exists (select from instance where uid = $1 and generation = $2 and deleted_at is null)
       or exists (select from template where uid = $1 and generation = $2)
), gone as (
    delete from run_limit l using told t
    where l.scope = t.scope and t.concurrency is null and t.runs is null
)
insert into run_limit as l (scope, concurrency, runs, period_seconds, burst)
select scope, concurrency, runs, period_seconds, burst from told where concurrency is not null or runs is not null
on conflict (scope) do update
set concurrency = excluded.concurrency, runs = excluded.runs, period_seconds = excluded.period_seconds,
    burst = excluded.burst
where (l.concurrency, l.runs, l.period_seconds, l.burst)
      is distinct from (excluded.concurrency, excluded.runs, excluded.period_seconds, excluded.burst)
returning scope
