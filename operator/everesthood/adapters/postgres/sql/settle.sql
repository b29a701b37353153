-- Writes what was decided for each run of `overdue`; a reason given with a cancellation stays.
update run r
set state = d.state,
    reason = case when d.state = 5 then coalesce(r.reason, d.reason) else d.reason end,
    message = case when d.state = 5 and r.reason is not null then r.message else d.message end,
    lease_until = null,
    due_at = case when d.state = 0 then now() else r.due_at end,
    finished_at = case when d.state <> 0 then now() end
from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[]) d(id, state, reason, message)
where r.id = d.id
