"""One verb a file: gather, decide, commit. Ports are in `ports`."""
