-- Notes which of these organisations the platform's limit kept back.
with told as (
    select * from unnest($1::text[], $2::int[]) t(namespace, runs)
), gone as (
    delete from kept_back k using told t where k.namespace = t.namespace and t.runs = 0
)
insert into kept_back (namespace, runs, at)
select namespace, runs, clock_timestamp() from told where runs > 0
on conflict (namespace) do update set runs = excluded.runs, at = excluded.at
