-- Gives the organisation of a new instance what every organisation may have.
insert into run_limit (scope, concurrency, runs, period_seconds, burst, weight)
select 'organization/' || $1::text, concurrency, runs, period_seconds, burst, weight
from run_limit where scope = 'organization'
on conflict do nothing
returning scope
