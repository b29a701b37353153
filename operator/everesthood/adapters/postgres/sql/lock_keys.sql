-- One transaction at a time for each key, until it ends; in one order, so that no two wait for each other.
select pg_advisory_xact_lock(h)
from (select distinct hashtextextended(k, 0) as h from unnest($1::text[]) k order by h) keys
