delete from run_limit where scope in ('template/' || $1::text, 'instance/' || $1::text)
