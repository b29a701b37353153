"""Where the test bed keeps things and which addresses a cluster of it uses; the only reader of the environment."""

import os
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

REGISTRY = "everesthood.test"
OPERATOR_IMAGE = f"{REGISTRY}/everesthood:dev"
BASE_IMAGE = f"{REGISTRY}/python-base:dev"
PAUSE_IMAGE = f"{REGISTRY}/pause:dev"
POSTGRES_IMAGE = f"{REGISTRY}/postgres:17"
VALKEY_IMAGE = f"{REGISTRY}/valkey:8"

STATES = Path("/var/lib/everesthood")
"""Where clusters keep their state unless told otherwise; made by the first, and gone with the last."""

NODE = "node1"
POD_CIDR = "10.244.0.0/22"
SERVICE_CIDR = "10.96.0.0/16"
SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"


class TestBedError(Exception):
    """What went wrong, in words that a person can act on."""

    __test__ = False


def cache() -> Path:
    """Return the folder for what is expensive to make: programs, images, packages."""
    chosen = os.environ.get("EVERESTHOOD_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "everesthood"


def keep_cluster() -> bool:
    """Say whether a test run reuses a running cluster and leaves it running."""
    return os.environ.get("EVERESTHOOD_CLUSTER_KEEP", "") not in ("", "0")


def _state() -> Path:
    return Path(os.environ.get("EVERESTHOOD_STATE", STATES / "cluster"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Files and addresses of one embedded cluster; two control planes differ in all of them."""

    state: Path = field(default_factory=_state)
    subnet: str = "10.250.0"
    link: str = "everesthood0"

    @property
    def node_ip(self) -> str:
        return f"{self.subnet}.1"

    @property
    def host_ip(self) -> str:
        """Return the host's address as pods and the API server see it."""
        return f"{self.subnet}.254"

    @property
    def server(self) -> str:
        return f"https://{self.node_ip}:6443"

    @property
    def kubeconfig(self) -> Path:
        return self.pki / "admin.conf"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def netns(self) -> Path:
        return self.state / "netns"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def containerd_root(self) -> Path:
        """Return containerd's image store, which outlives the cluster so that a boot imports nothing."""
        return cache() / "containerd"
