-- Starts candidates that the limits let in; their rows are locked by this transaction. As work.sql starts runs.
with chosen as (
    select * from unnest($1::uuid[], $2::int[], $3::text[]) t(id, k, revision)
), started as (
    update run r
    set state = 1, revision = c.revision, fence = r.fence + 1, attempt = r.attempt + 1,
        lease_until = now() + $4::int * interval '1 second', started_at = coalesce(r.started_at, now()),
        reason = null, message = '', limited = true
    from chosen c where r.id = c.id
    returning c.k, r.id, r.fence, r.attempt, r.input, r.request_id, r.due_at, r.priority,
              extract(epoch from r.started_at - now())::float8 + r.max_run_seconds as seconds_left, r.failed_attempt
)
select k, id::text, fence, attempt, input::text, request_id, seconds_left,
-- include: checkpoints
from started
order by k, priority, due_at, id
