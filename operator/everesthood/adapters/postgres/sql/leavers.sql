select instance_uid, revision, pod from leaver
