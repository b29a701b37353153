-- Cancels what runs in a stopped organisation; $2, $3 and $4 are the reason, the sentence and who stopped it.
with doomed as (
    select id from run where state = 1 and namespace = $1 and not cancel_requested order by id for update
), changed as (
    update run r
    set cancel_requested = true, reason = $2, message = $3, cancel_by = now() + $5::float8 * interval '1 second'
    from doomed d where r.id = d.id
    returning r.id, r.instance_uid, r.namespace
), told as (
    select pg_notify('everesthood_cancels', instance_uid) from (select distinct instance_uid from changed) c
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select namespace, $4, 'run.cancel', 'run/' || id, '' from changed
)
select id::text, (select count(*) from told) from changed
