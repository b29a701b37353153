-- Instances by namespace and name, each asked for once.
select n.k::int as k, i.uid, i.suspended, i.current_revision, r.spec::text as spec
from unnest($1::text[], $2::text[]) with ordinality n(namespace, name, k)
join instance i on i.namespace = n.namespace and i.name = n.name and i.deleted_at is null
left join revision r on r.namespace = i.namespace and r.digest = i.current_revision
