select instance_uid, revision from scale_in where wanted > appointed
