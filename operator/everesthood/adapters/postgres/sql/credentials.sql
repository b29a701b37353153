select uid, namespace, name, generation, type, header, secret_name, secret_key, hosts, allowed_instances
from credential where namespace = $1 and name = any($2::text[])
