"""Gives memory back to the system that imports used for a moment: an instance may have many idle workers."""

import ctypes
import gc


def give_back() -> None:
    """Return freed memory; does nothing where the C library has no way to."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
