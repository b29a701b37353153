-- Locks the instances of a namespace, which waits for what is being accepted for them.
select uid from instance where namespace = $1 and deleted_at is null order by uid for update
