-- Locks what limits these instances, in the order of scopes, so that no two claims wait for each other.
select scope, concurrency, runs, period_seconds, burst, next_at, held_until
from run_limit
where scope in (select unnest(scopes) from instance where uid = any($1::text[]))
  and (concurrency is not null or runs is not null or held_until > now())
order by scope for update
