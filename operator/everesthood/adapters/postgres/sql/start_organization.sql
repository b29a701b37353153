-- Lifts a stop; no row comes back where there is none.
with gone as (
    delete from stopped_organization where namespace = $1 returning namespace
)
insert into audit (namespace, actor, action, target, request_id)
select namespace, $2, 'organization.start', namespace, $3 from gone
returning id
