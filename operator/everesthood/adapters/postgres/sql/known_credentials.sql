select uid from credential
