"""What a cluster offers to the tests, whichever way it came about, and which way is chosen."""

import os
import platform
import shutil
from pathlib import Path
from signal import Signals
from typing import Protocol

from tests.cluster import binaries
from tests.cluster.commands import attempt
from tests.cluster.settings import TestBedError


class Provider(Protocol):
    """A Kubernetes: embedded, kind's, or one that was there before."""

    @property
    def kubeconfig(self) -> Path:
        """Return the administrator's kubeconfig, usable from the host."""
        ...

    @property
    def host_address(self) -> str:
        """Return the address by which the API server reaches a server that runs where the tests run."""
        ...

    @property
    def reaches_services(self) -> bool:
        """Say whether a Service's address leads there from where the tests run."""
        ...

    @property
    def has_fake_nodes(self) -> bool:
        """Say whether `start` can add nodes that only pretend."""
        ...

    def start(self, *, node: bool = True, fake_nodes: int = 0) -> None:
        """Bring the cluster up; a cluster that is up stays as it is."""
        ...

    def stop(self) -> None:
        """Leave nothing behind."""
        ...

    def status(self) -> str:
        """Describe the cluster in a few lines; the first word is `running` or `stopped`."""
        ...

    def load_image(self, image: str | Path) -> None:
        """Give the node an image by name, built if it is one of ours, or from an archive."""
        ...

    def name_by_content(self, image: str) -> str:
        """Return another name of a loaded image of ours, which changes when its content does."""
        ...

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return what it prints."""
        ...

    def helm(self, *args: str) -> str:
        """Run Helm as administrator and return what it prints."""
        ...

    def tool(self, name: str) -> tuple[Path, dict[str, str]]:
        """Return kubectl's or helm's path and the environment to run it with."""
        ...

    def restart_apiserver(self) -> None:
        """Kill the API server without warning and return when one is ready again."""
        ...

    def signal_pod(self, uid: str, number: Signals) -> None:
        """Send a signal to each process of a pod's containers; raise when there is none."""
        ...


def choose() -> Provider:
    """Return the provider that CLUSTER names, or the first that this machine can run."""
    wanted = os.environ.get("CLUSTER") or _possible()
    match wanted:
        case "embedded":
            from tests.cluster.embedded import EmbeddedCluster  # noqa: PLC0415

            return EmbeddedCluster()
        case "kind":
            from tests.cluster.kind import KindCluster  # noqa: PLC0415

            return KindCluster()
        case "current":
            from tests.cluster.current import CurrentCluster  # noqa: PLC0415

            return CurrentCluster()
        case _:
            raise TestBedError(f"CLUSTER={wanted} is unknown; choose embedded, kind or current")


def _possible() -> str:
    if platform.system() == "Linux" and os.geteuid() == 0 and binaries.go():
        return "embedded"
    if shutil.which("docker") and attempt("docker", "info"):
        return "kind"
    raise TestBedError(
        "no cluster is possible here: install Go and be root on Debian, or start Docker and install kind,"
        " kubectl and helm, or name your own cluster with CLUSTER=current CONTEXT=<kubeconfig context>"
    )
