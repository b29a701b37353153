select reason, fingerprint, changed_at from credential where uid = $1 and reason is not null
