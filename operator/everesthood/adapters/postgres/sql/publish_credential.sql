-- Writes the credential unless it is newer or the same; another Secret or key is looked at anew.
insert into credential as c (uid, namespace, name, generation, type, header, secret_name, secret_key, hosts,
                             allowed_instances)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
on conflict (uid) do update
set generation = excluded.generation, type = excluded.type, header = excluded.header,
    secret_name = excluded.secret_name, secret_key = excluded.secret_key, hosts = excluded.hosts,
    allowed_instances = excluded.allowed_instances,
    reason = case when (c.secret_name, c.secret_key) = (excluded.secret_name, excluded.secret_key) then c.reason end,
    fingerprint = case when (c.secret_name, c.secret_key) = (excluded.secret_name, excluded.secret_key)
                       then c.fingerprint else '' end,
    changed_at = case when (c.secret_name, c.secret_key) = (excluded.secret_name, excluded.secret_key)
                      then c.changed_at end,
    observed_at = case when (c.secret_name, c.secret_key) = (excluded.secret_name, excluded.secret_key)
                       then c.observed_at end
where c.generation <= excluded.generation
  and (c.generation, c.type, c.header, c.secret_name, c.secret_key, c.hosts, c.allowed_instances)
      is distinct from
      (excluded.generation, excluded.type, excluded.header, excluded.secret_name, excluded.secret_key,
       excluded.hosts, excluded.allowed_instances)
