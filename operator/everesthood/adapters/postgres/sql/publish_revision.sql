insert into revision (namespace, digest, template, spec) values ($1, $2, $3, $4::json) on conflict do nothing
