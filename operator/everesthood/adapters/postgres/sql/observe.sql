-- Returns a row when the controller should look: what was seen differs from the last time.
with before as (
    select uid, reason, fingerprint from credential where uid = $1 for update
)
update credential c
set observed_at = now(),
    reason = $2,
    changed_at = case when $3::text not in ('', c.fingerprint) then now() else c.changed_at end,
    fingerprint = coalesce(nullif($3::text, ''), c.fingerprint)
from before b where c.uid = b.uid
returning (b.reason is distinct from $2) or $3::text not in ('', b.fingerprint) as changed
