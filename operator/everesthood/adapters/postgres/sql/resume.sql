-- Resumes a queue; no row comes back where there is no such instance.
with found as (
    select uid, paused_at from instance where namespace = $1 and name = $2 and deleted_at is null for update
), changed as (
    update instance i set paused_at = null, paused_by = ''
    from found f where i.uid = f.uid and f.paused_at is not null returning i.uid
), noted as (
    insert into audit (namespace, actor, action, target, request_id)
    select $1, $3, 'queue.resume', 'instance/' || $2, $4 from changed
)
select uid from found
