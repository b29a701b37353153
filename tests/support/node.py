"""Kills or freezes the processes of a pod, as a failing node would."""

from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGKILL, SIGSTOP

from tests.cluster.provider import Provider


def kill(cluster: Provider, pod_uid: str) -> None:
    """End a pod's processes at once, with no chance to say goodbye."""
    cluster.signal_pod(pod_uid, SIGKILL)


@contextmanager
def frozen(cluster: Provider, pod_uid: str) -> Iterator[None]:
    """Stop a pod's processes for as long as the block lasts: connections stay, nobody answers."""
    cluster.signal_pod(pod_uid, SIGSTOP)
    try:
        yield
    finally:
        cluster.signal_pod(pod_uid, SIGCONT)
