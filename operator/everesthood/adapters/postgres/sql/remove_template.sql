with gone as (
    delete from template where uid = $1 returning namespace, name
)
delete from run_limit l using gone where l.scope = 'template/' || gone.namespace || '/' || gone.name
