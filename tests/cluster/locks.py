"""Locks between processes that use the same cache and the same cluster; the kernel lets go of them."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.progress import say
from tests.cluster.settings import cache


@contextmanager
def locked(name: str, *, shared: bool = False, busy: str = "") -> Iterator[None]:
    """Hold the lock of that name; whoever has to wait is told why when `busy` says it."""
    cache().mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with (cache() / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy:
                say(f"· {busy} …")
            fcntl.flock(file, kind)
        yield
