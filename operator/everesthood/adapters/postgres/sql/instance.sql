select uid, namespace, name, generation, template, service_account, current_revision, config::text,
       bindings::text, suspended
from instance where uid = $1 and deleted_at is null
