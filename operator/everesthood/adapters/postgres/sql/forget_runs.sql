-- Forgets runs that are over for long enough, with all that is theirs; the end of is_old in domain/keeping.py.
-- Walks $3 runs by id from $1 to $2: ids carry the time, so no index is needed that each run would pay for.
--   $4 moment before which a run must have ended, $5 the same of dead and ambiguous runs
-- Arrays and LIMIT keep each DELETE on its primary key, whatever the planner believes.
with walked as materialized (
    select id from run where id > $1::uuid and id < $2::uuid order by id limit $3::int
), old as materialized (
    select id, namespace, labels from run
    where id = any (array(select id from walked))
      and state in (3, 4, 5, 6, 7)
      and finished_at < case when state in (4, 7) then $5::timestamptz else $4::timestamptz end
    order by id for update skip locked
), runs as (
    delete from run where id = any (array(select id from old)) returning 1
), steps as (
    delete from step where run_id = any (array(select id from old)) returning 1
), lines as (
    delete from run_log where run_id = any (array(select id from old)) returning 1
), questions as (
    delete from approval where run_id = any (array(select id from old))
), labels as (
    delete from run_label where ctid = any (array(
        select l.place from old o
        cross join lateral jsonb_each_text(o.labels) e
        cross join lateral (
            select ctid as place from run_label
            where namespace = o.namespace and name = e.key and value = e.value and run_id = o.id limit 1) l
        where o.labels is not null))
)
select (select count(*) from walked)::int as looked,
       (select id::text from walked order by id desc limit 1) as last,
       (select count(*) from runs)::int as runs,
       (select count(*) from steps)::int as steps,
       (select count(*) from lines)::int as log_lines
