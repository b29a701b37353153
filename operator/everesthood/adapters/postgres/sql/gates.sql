-- What limits one instance, as it stands, without locks: for people.
select l.scope, l.concurrency, l.runs, l.period_seconds, l.burst, l.next_at, l.held_until, now() as now
from instance i join run_limit l on l.scope = any(i.scopes)
where i.uid = $1 and (l.concurrency is not null or l.runs is not null or l.held_until > now())
order by l.scope
