-- Writes cancellations that were decided under the rows' locks; $5 is the workers' grace, $6 who cancels.
with changed as (
    update run r
    set state = c.state, cancel_requested = true, reason = c.reason, message = c.message,
        finished_at = case when c.state = 1 then null else now() end,
        cancel_by = now() + $5::float8 * interval '1 second'
    from unnest($1::uuid[], $2::smallint[], $3::text[], $4::text[], $6::text[]) c(id, state, reason, message, actor)
    where r.id = c.id
    returning r.namespace, r.id, r.instance_uid, r.state, c.actor
), told as (
    select pg_notify('everesthood_cancels', instance_uid) from (
        select distinct instance_uid from changed where state = 1) c
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select namespace, actor, 'run.cancel', 'run/' || id, '' from changed
)
select count(*) from told
