"""Installs the Debian packages that the embedded cluster and its images are made with."""

import os
import shutil
from pathlib import Path

from tests.cluster.commands import environment, run
from tests.cluster.progress import step
from tests.cluster.settings import TestBedError

# A file of each package, because not every package brings a program on PATH; a name is looked up there,
# as some machines have the program from elsewhere, at another place.
PACKAGES = {
    "containerd": "/usr/bin/containerd",
    "runc": "runc",
    "containernetworking-plugins": "/usr/lib/cni/bridge",
    "buildah": "/usr/bin/buildah",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "debian-archive-keyring": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "iptables": "/usr/sbin/iptables",
    "nftables": "/usr/sbin/nft",
    "conntrack": "/usr/sbin/conntrack",
    "ipset": "/usr/sbin/ipset",
    "catatonit": "/usr/bin/catatonit",
    "iproute2": "/usr/sbin/ip",
    "openssl": "/usr/bin/openssl",
    "procps": "sysctl",
}


def missing() -> list[str]:
    """Return the packages that this machine lacks."""
    return [package for package, file in PACKAGES.items() if not _is_there(file)]


def ensure() -> None:
    """Install what is missing; needs root and apt, as the embedded cluster does anyway."""
    wanted = missing()
    if not wanted:
        return
    names = " ".join(wanted)
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise TestBedError(f"install these packages (their Debian names) and try again: {names}")
    quiet = environment(DEBIAN_FRONTEND="noninteractive")
    with step(f"Debian packages, once: {names}"):
        run("apt-get", "update", "-q", env=quiet)
        # Run level 1 keeps the packages' own services from starting: the cluster starts its own.
        # Nothing goes for it: on a machine with Docker a runc of Debian's would take containerd.io along.
        install = ("apt-get", "install", "-qy", "--no-install-recommends", "--no-remove")
        run(*install, *wanted, env=quiet | {"RUNLEVEL": "1"})


def _is_there(file: str) -> bool:
    if file.startswith("/"):
        return Path(file).exists()
    return shutil.which(file, path=environment()["PATH"]) is not None
