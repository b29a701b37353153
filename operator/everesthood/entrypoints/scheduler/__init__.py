"""The scheduler process: duties that nobody calls for, each led by one process at a time."""
