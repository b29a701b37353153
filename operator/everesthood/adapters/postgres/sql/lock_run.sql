select state, cancel_requested from run where id = $1::uuid and namespace = $2 for update
