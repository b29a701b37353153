"""The only place that wires adapters to use cases: one module a process."""
