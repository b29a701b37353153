select uid, namespace, name, generation, type, header, secret_name, secret_key, hosts, allowed_instances
from credential
where observed_at is null or observed_at < now() - $1::float8 * interval '1 second'
order by observed_at nulls first limit 1000
