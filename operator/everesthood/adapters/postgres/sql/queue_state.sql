select coalesce((select queue_ready from instance where uid = $1), false) as ready,
       array(select revision from run where instance_uid = $1 and state = 0 and revision is not null
             union
             select revision from run where instance_uid = $1 and state = 1
             union
             select revision from run where instance_uid = $1 and state = 2 and revision is not null
       ) as open_revisions
