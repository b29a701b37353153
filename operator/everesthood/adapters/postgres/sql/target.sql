select i.uid, i.suspended, i.current_revision, r.spec::text as spec
from instance i
left join revision r on r.namespace = i.namespace and r.digest = i.current_revision
where i.namespace = $1 and i.name = $2 and i.deleted_at is null
