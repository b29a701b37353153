-- Running runs that limits count, by instance: of some organisations, or of all where $1 is null.
select c.namespace, c.runs::int, i.scopes
from (
    select namespace, instance_uid, count(*) as runs from run
    where state = 1 and limited and ($1::text[] is null or namespace = any($1))
    group by namespace, instance_uid) c
left join instance i on i.uid = c.instance_uid
