-- A template's limits are of all its instances together: template/NAMESPACE/NAME.

create table template (
    uid        text primary key,
    namespace  text not null,
    name       text not null,
    generation bigint not null,
    unique (namespace, name)
);

create function limit_scopes(uid text, namespace text, template text, bindings jsonb) returns text[]
language sql immutable parallel safe
as $$
    select array['platform', 'organization/' || namespace, 'template/' || namespace || '/' || template, 'instance/' || uid]
           || array(select distinct 'credential/' || namespace || '/' || b.value
                    from jsonb_each_text(bindings) b order by 1)
$$;

-- Until templates are published again, the strictest of what their instances had holds for all of them.
create temporary table shared on commit drop as
select distinct on (i.namespace, i.template)
       'template/' || i.namespace || '/' || i.template as scope,
       l.concurrency, l.runs, l.period_seconds, l.burst, l.next_at
from run_limit l join instance i on l.scope = 'template/' || i.uid
where i.deleted_at is null
order by i.namespace, i.template, l.concurrency nulls last, l.runs::float8 / l.period_seconds nulls last;
delete from run_limit where scope like 'template/%';
insert into run_limit (scope, concurrency, runs, period_seconds, burst, next_at) select * from shared;

alter table instance drop column scopes;
drop function limit_scopes(text, text, jsonb);
alter table instance
    add column scopes text[] not null generated always as (limit_scopes(uid, namespace, template, bindings)) stored;
