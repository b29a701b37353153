-- The weights of organisations, and how many of their runs the platform's limit kept back lately.
select namespace, runs, null::int as weight from kept_back
where at > clock_timestamp() - $1::float8 * interval '1 second'
union all
select substr(scope, length('organization/') + 1), null, weight from run_limit
where scope like 'organization/%' and weight <> 1
