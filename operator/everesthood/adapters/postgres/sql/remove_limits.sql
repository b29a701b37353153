delete from run_limit where scope = 'instance/' || $1::text
