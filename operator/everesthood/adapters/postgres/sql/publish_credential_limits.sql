-- Writes the limits of a credential that was just published, as far as they differ; a hold stays.
insert into run_limit as l (scope, concurrency, runs, period_seconds, burst)
select $3, $4, $5, $6, $7
where exists (select from credential where uid = $1 and generation = $2)
  and ($4::int is not null or $5::int is not null or exists (select from run_limit where scope = $3))
on conflict (scope) do update
set concurrency = excluded.concurrency, runs = excluded.runs, period_seconds = excluded.period_seconds,
    burst = excluded.burst
where (l.concurrency, l.runs, l.period_seconds, l.burst)
      is distinct from (excluded.concurrency, excluded.runs, excluded.period_seconds, excluded.burst)
returning scope
