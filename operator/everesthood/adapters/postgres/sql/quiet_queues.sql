-- Which of these queues the controller wants to hear of.
select distinct i.uid
from unnest($1::text[], $2::text[]) q(uid, revision)
join instance i on i.uid = q.uid and i.deleted_at is null and q.revision = any(i.quiet)
