"""The worker process: one instance's runs, on one event loop, woken by its queue."""
