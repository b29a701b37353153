-- Writes the template unless it is newer.
insert into template as t (uid, namespace, name, generation) values ($1, $2, $3, $4)
on conflict (uid) do update set generation = excluded.generation where t.generation < excluded.generation
