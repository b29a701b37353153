-- Locks open runs whose parent, one of $1, was cancelled or ran out of time; $2 is the label that names a parent.
select r.id::text, r.state, p.id::text as parent, p.state as parent_state
from run p
join run_label l on l.namespace = p.namespace and l.name = $2 and l.value = p.id::text
join run r on r.id = l.run_id and r.state in (0, 1, 2) and not r.cancel_requested
where p.id = any($1::uuid[]) and (p.state in (5, 6) or p.cancel_requested)
order by r.id for update of r
