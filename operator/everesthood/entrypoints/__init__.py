"""Processes: they translate between the outside and one use case."""
