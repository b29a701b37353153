-- A question as it stands; its run is locked.
select deadline_at, on_reject, verdict, decided_by, now() as now
from approval where run_id = $1::uuid and step = $2
