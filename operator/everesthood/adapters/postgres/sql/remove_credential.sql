with gone as (
    delete from credential where uid = $1 returning namespace, name
)
delete from run_limit l using gone where l.scope = 'credential/' || gone.namespace || '/' || gone.name
