select uid from template
