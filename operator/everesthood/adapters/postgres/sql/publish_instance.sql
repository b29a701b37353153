-- Writes the instance unless it is deleted, newer or the same. `fresh` tells the scheduler.
insert into instance as i (uid, namespace, name, generation, template, service_account, current_revision,
                           config, bindings, suspended, quiet, stopped)
values ($1, $2, $3, $4, $5, $6, $7, $8::json, $9::jsonb, $10, $11::text[],
        exists (select from stopped_organization where namespace = $2))
on conflict (uid) do update
set generation = excluded.generation, template = excluded.template,
    service_account = excluded.service_account, current_revision = excluded.current_revision,
    config = excluded.config, bindings = excluded.bindings, suspended = excluded.suspended,
    quiet = excluded.quiet
where i.deleted_at is null and i.generation <= excluded.generation
  and (i.generation, i.template, i.service_account, i.current_revision, i.config::text, i.bindings, i.suspended,
       i.quiet)
      is distinct from
      (excluded.generation, excluded.template, excluded.service_account, excluded.current_revision,
       excluded.config::text, excluded.bindings, excluded.suspended, excluded.quiet)
returning xmax = 0 as fresh
