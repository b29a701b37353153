-- Forgets workers whose pods are gone, and as much of the wish as they were.
with gone as (
    delete from leaver where instance_uid = $1 and revision = $2 and pod = any($3::text[]) returning 1
)
update scale_in s
set wanted = greatest(0, s.wanted - n), appointed = greatest(0, s.appointed - n)
from (select count(*)::int as n from gone) g
where s.instance_uid = $1 and s.revision = $2 and n > 0
