delete from credential where uid = $1
