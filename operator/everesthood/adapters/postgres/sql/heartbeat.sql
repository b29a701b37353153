-- Renews leases of held runs, no further than one lease beyond the run's deadline.
with mine as materialized (
    select h.id from (select * from unnest($1::uuid[], $2::int[]) t(id, fence) order by id) q
    cross join lateral (
        select r.id from run r
        where r.id = q.id and r.fence = q.fence and r.instance_uid = $3 and r.state = 1
        limit 1 for update) h
)
update run r
set lease_until = least(now(), r.started_at + r.max_run_seconds * interval '1 second')
                  + $4::int * interval '1 second'
from mine where r.id = mine.id
returning r.id::text as id, r.fence, r.cancel_requested
