-- Questions whose deadline passed, one of each run that is not over, with their runs locked.
with late as materialized (
    select distinct on (run_id) run_id, step from (
        select run_id, step from approval where verdict is null and deadline_at <= now()
        order by deadline_at limit $1) a
    order by run_id, step
)
select r.id::text, r.state, l.step
from late l cross join lateral (
    select id, state from run r where r.id = l.run_id and r.state in (0, 1, 2) for update skip locked) r
order by r.id
