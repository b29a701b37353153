select seq, at, level, step, message from run_log
where run_id = $1::uuid and seq > $2 order by seq limit $3
