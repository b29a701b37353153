-- Has limits that are new count the runs that are running already; in the order of ids, as every writer.
update run r set limited = true
from (select r.id from run r join instance i on i.uid = r.instance_uid
      where i.scopes && $1::text[] and r.state = 1 and not r.limited
      order by r.id for update of r) found
where r.id = found.id
