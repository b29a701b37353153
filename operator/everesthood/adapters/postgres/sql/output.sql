select coalesce(output::text, 'null') as output from step where run_id = $1::uuid and name = $2
