-- Keeps a stop; no row comes back where one is there that does as much.
with made as (
    insert into stopped_organization as s (namespace, stopped_by, message, cancels) values ($1, $2, $3, $4)
    on conflict (namespace) do update
    set stopped_at = now(), stopped_by = excluded.stopped_by, message = excluded.message, cancels = true
    where excluded.cancels and not s.cancels
    returning namespace
)
insert into audit (namespace, actor, action, target, request_id)
select namespace, $2, 'organization.stop', namespace, $5 from made
returning id
