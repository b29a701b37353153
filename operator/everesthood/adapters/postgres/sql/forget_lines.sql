-- Forgets lines of logs that were written before $5. Walks $4 of them from (run $1, seq $2) to run $3.
with walked as materialized (
    select ctid as place, run_id, seq, at from run_log
    where (run_id, seq) > ($1::uuid, $2::bigint) and run_id < $3::uuid
    order by run_id, seq limit $4::int
), gone as (
    delete from run_log where ctid = any (array(select place from walked where at < $5::timestamptz)) returning 1
)
select (select count(*) from walked)::int as looked,
       (select run_id || '/' || seq from walked order by run_id desc, seq desc limit 1) as last,
       (select count(*) from gone)::int as gone
