-- Holds a credential for every run of every instance that binds it; a hold is never shortened.
insert into run_limit (scope, held_until)
values ('credential/' || $1::text || '/' || $2::text, now() + $3::float8 * interval '1 second')
on conflict (scope) do update set held_until = greatest(run_limit.held_until, excluded.held_until)
