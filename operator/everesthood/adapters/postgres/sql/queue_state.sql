select coalesce(i.queue_ready, false) as ready, i.paused_at, i.paused_by,
       s.stopped_at, s.stopped_by, s.message, s.cancels,
       array(select revision from run where instance_uid = $1 and state = 0 and revision is not null
             union
             select revision from run where instance_uid = $1 and state = 1
             union
             select revision from run where instance_uid = $1 and state = 2 and revision is not null
       ) as open_revisions
from (select $1::text as uid) asked
left join instance i on i.uid = asked.uid left join stopped_organization s on s.namespace = i.namespace
