"""Gives memory back to the system that imports used for a moment: an instance may have many idle workers."""

import ctypes

from everesthood.adapters.telemetry import collect_seldom


def give_back() -> None:
    """Return freed memory; does nothing where the C library has no way to."""
    collect_seldom()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
