-- Forgets $2 idempotency keys from before $1.
with gone as (
    delete from idempotency where ctid = any (array(
        select ctid from idempotency where created_at < $1::timestamptz order by created_at limit $2::int))
    returning 1
)
select count(*)::int as looked, '' as last, count(*)::int as gone from gone
