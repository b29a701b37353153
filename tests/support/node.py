"""Reaches the processes of a pod on this machine, to kill or freeze them as a failing node would."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def processes(pod_uid: str) -> list[int]:
    """Return the processes of a pod's containers, without the sandbox's own."""
    spellings = (pod_uid, pod_uid.replace("-", "_"))
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            cgroup = (folder / "cgroup").read_text()
            command = (folder / "cmdline").read_bytes()
            if any(uid in cgroup for uid in spellings) and not command.startswith(b"/pause"):
                found.append(int(folder.name))
    return found


def kill(pod_uid: str) -> None:
    """End a pod's processes at once, with no chance to say goodbye."""
    _signal(pod_uid, signal.SIGKILL)


@contextmanager
def frozen(pod_uid: str) -> Iterator[None]:
    """Stop a pod's processes for as long as the block lasts: connections stay, nobody answers."""
    _signal(pod_uid, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pod_uid, signal.SIGCONT)


def _signal(pod_uid: str, number: signal.Signals) -> None:
    pids = processes(pod_uid)
    if not pids:
        raise LookupError(f"pod {pod_uid} has no process on this machine")
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
