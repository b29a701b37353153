-- Locks the runs of schedules that are not over.
select id::text, state, schedule from run
where state in (0, 1, 2) and not cancel_requested
  and (instance_uid, schedule) in (select * from unnest($1::text[], $2::text[]))
order by id for update
