#!/bin/sh
# Prints the Secrets that manifests/install.yaml expects, with new random values.
# Once for each installation: manifests/keys.sh | kubectl create -f -
# (`create`, not `apply`: it refuses to replace keys that are in use.)
set -eu
namespace=${1:-everesthood-system}
host=everesthood-postgresql.$namespace.svc

key() { openssl rand -hex 32; }
secret() { printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n' "$1" "$namespace"; }

database=$(key)
admin=$(key)
digest=$(printf %s "$admin" | openssl dgst -sha256 -r | cut -d' ' -f1)

secret everesthood-keys
printf '  bell-key: "%s"\n  fingerprint-key: "%s"\n' "$(key)" "$(key)"
secret everesthood-postgresql
printf '  password: "%s"\n  url: postgresql://everesthood:%s@%s:5432/everesthood\n' "$database" "$database" "$host"
secret everesthood-redis
printf '  admin-password: "%s"\n  bell-password: "%s"\n' "$admin" "$(key)"
printf '  users.conf: "user default on #%s ~* &* +@all\\n"\n' "$digest"
