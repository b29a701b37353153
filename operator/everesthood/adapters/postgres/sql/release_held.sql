-- Lets the earliest held run of a schedule go once no other of its runs is open.
with free as (
    select distinct on (h.instance_uid, h.schedule) h.id
    from run h
    where h.state = 0 and h.due_at = 'infinity' and not exists (
        select from run o
        where o.instance_uid = h.instance_uid and o.schedule = h.schedule
          and o.state in (0, 1, 2) and o.due_at < 'infinity')
    order by h.instance_uid, h.schedule, h.fire_at
), locked as (
    select r.id from run r join free on free.id = r.id
    where r.state = 0 and r.due_at = 'infinity'
    limit $1 for update of r skip locked
), released as (
    update run r set due_at = now(), reason = null, message = '' from locked where r.id = locked.id
    returning r.id, r.instance_uid
)
select released.id::text, i.uid as instance_uid, case when i.suspended or i.paused_at is not null or i.stopped then null else i.current_revision end as revision
from released join instance i on i.uid = released.instance_uid and i.deleted_at is null
