-- Writes when the next start of each rate would come if all came evenly.
update run_limit l set next_at = t.next_at
from unnest($1::text[], $2::timestamptz[]) t(scope, next_at) where l.scope = t.scope
