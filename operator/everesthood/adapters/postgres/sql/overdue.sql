-- Runs whose worker fell silent, cancelled ones whose grace is over, started runs that wait although their time is up, and runs that nobody
-- started in time. The columns come
-- from the locked rows, so that a cancellation of this very moment is seen.
with silent as (
    select * from run where state = 1 and lease_until < now()
    order by lease_until limit $1 for update skip locked
), broken as (
    select * from run where state = 1 and cancel_by <= now() and lease_until >= now()
    order by cancel_by limit $1 for update skip locked
), late as (
    select * from run
    where state = 0 and revision is not null and started_at + max_run_seconds * interval '1 second' <= now()
    limit $1 for update skip locked
), unwanted as (
    select * from run where state = 0 and started_at is null and expires_at <= now()
    order by expires_at limit $1 for update skip locked
)
select id::text, instance_uid, state, attempt, failures, max_attempts, max_run_seconds, cancel_requested, started_at, now() as now
from (select * from silent union all select * from broken union all select * from late union all select * from unwanted) overdue
