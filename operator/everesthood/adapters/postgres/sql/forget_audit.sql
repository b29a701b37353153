-- Forgets lines of the audit log from before $3: the oldest first, none behind one that stays.
with walked as materialized (
    select ctid as place, id, at from audit where id > $1::bigint order by id limit $2::int
), old as materialized (
    select place, id from walked
    where id < coalesce((select min(id) from walked where at >= $3::timestamptz), 9223372036854775807)
), gone as (
    delete from audit where ctid = any (array(select place from old)) returning 1
)
select (select count(*) from old)::int as looked,
       (select max(id)::text from old) as last,
       (select count(*) from gone)::int as gone
