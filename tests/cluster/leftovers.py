"""Takes away everything a cluster put on the machine; works as well after a crash of any part."""

import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from tests.cluster import containers, network, processes
from tests.cluster.commands import attempt
from tests.cluster.settings import STATES, Layout, TestBedError

# Folders that components make at fixed places, whatever they are told.
FIXED = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/log/containers",
    "/run/containerd",
    "/run/flannel",
    "/opt/containerd",
)
ABSENT = "absent.json"

# Pods' owner first, so that nothing starts again what is stopped; then clients before servers.
ORDER = (
    "fake-kubelet",
    "kubelet",
    "kube-router",
    "kube-proxy",
    "coredns",
    "kube-scheduler",
    "kube-controller-manager",
    "kube-apiserver",
    "etcd",
)


def remember_machine(layout: Layout) -> None:
    """Note, before a node starts, what it will change on the machine outside the state folder."""
    network.save_sysctls(layout)
    absent = [path for path in FIXED if not Path(path).exists()]
    (layout.state / ABSENT).write_text(json.dumps(absent))


def remove(layout: Layout) -> None:
    """Stop what runs and remove what is left; every step copes with what is missing."""
    if layout.state.exists():
        _remove_all(layout)
    else:
        network.remove(layout)
    # Not there, or the home of another cluster still.
    with suppress(OSError):
        STATES.rmdir()


def _remove_all(layout: Layout) -> None:
    # Nothing here is worth a farewell, and the kubelet would take its time over it.
    processes.stop(layout, "kubelet", patience=0)
    _end_containers(layout)
    for name in ORDER:
        processes.stop(layout, name, patience=0)
    processes.stop(layout, "containerd")
    containers.kill_shims(layout)
    _unmount(layout)
    network.remove(layout)
    if (layout.state / ABSENT).exists():
        # Only after a node: without one these belong to somebody else.
        network.restore_sysctls(layout)
        _remove_cgroups()
        _remove_fixed(layout)
    shutil.rmtree(layout.state)


def traces(layout: Layout, *, node: bool = True) -> list[str]:
    """Return what of a stopped cluster can still be found; without `node` only what is its own by name."""
    found = [f"mount {mount}" for mount in _mounts(layout)]
    found += [f"folder {layout.state}"] if layout.state.exists() else []
    found += [f"link {layout.link}"] if Path("/sys/class/net", layout.link).exists() else []
    found += [f"process {pid}" for pid in _processes(layout)]
    found += [f"cgroup {cgroup}" for cgroup in _cgroups()] if node else []
    return found


def _end_containers(layout: Layout) -> None:
    containers.kill_pods(layout)
    runtime = processes.records(layout).get("containerd")
    if runtime and runtime.is_alive():
        try:
            containers.remove_containers(layout)
        except TestBedError:
            # The next boot removes them from the store before the kubelet sees them.
            return


def _unmount(layout: Layout) -> None:
    for mount in sorted(_mounts(layout), reverse=True):
        attempt("umount", "-l", mount)


def _mounts(layout: Layout) -> list[str]:
    """Return mounts below the state or containerd's root; the kernel writes spaces as \\040."""
    lines = Path("/proc/mounts").read_text().splitlines()
    points = [line.split()[1].replace("\\040", " ") for line in lines]
    ours = (f"{layout.state}/", f"{layout.containerd_root}/")
    return [point for point in points if point.startswith(ours)]


def _cgroups() -> list[Path]:
    """Return the kubelet's cgroups, children first: in each hierarchy of v1, or the one of v2."""
    root = Path("/sys/fs/cgroup")
    tops = [*root.glob("kubepods"), *root.glob("*/kubepods")]
    return [Path(folder) for top in tops for folder, _, _ in os.walk(top, topdown=False)]


def _remove_cgroups() -> None:
    """Remove them; one whose last process is just ending is busy for a moment."""
    for _ in range(40):
        for cgroup in _cgroups():
            # In use by a kubelet that is not ours, or gone in the meantime.
            with suppress(OSError):
                cgroup.rmdir()
        if not _cgroups():
            return
        time.sleep(0.05)


def _remove_fixed(layout: Layout) -> None:
    for path in json.loads((layout.state / ABSENT).read_text()):
        shutil.rmtree(path, ignore_errors=True)
    for link in Path("/var/log/containers").glob("*.log"):
        if str(link.readlink()).startswith(str(layout.state)):
            link.unlink()


def _processes(layout: Layout) -> list[int]:
    """Return processes that mention this cluster's state folder, but not whoever asks."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(f"{layout.state}/" in part for part in argv[1:]) and pid != os.getpid():
            found.append(pid)
    return found
