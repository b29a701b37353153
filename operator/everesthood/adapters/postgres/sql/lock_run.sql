select state, cancel_requested, instance_uid, revision from run where id = $1::uuid and namespace = $2 for update
