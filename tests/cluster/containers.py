"""The node's containerd: which images it has, how one gets in, how every container goes away."""

import io
import json
import os
import signal
import subprocess
import tarfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from tests.cluster import processes
from tests.cluster.api import until
from tests.cluster.commands import attempt, environment, run
from tests.cluster.imagestore import Image
from tests.cluster.settings import Layout, TestBedError


def ctr(layout: Layout, *argv: str | Path) -> str:
    return run("ctr", "-a", layout.containerd_socket, "-n", "k8s.io", *argv)


def wait_ready(layout: Layout) -> None:
    """Wait until containerd answers."""

    def answers() -> bool:
        return layout.containerd_socket.exists() and attempt("ctr", "-a", layout.containerd_socket, "version")

    until(answers, timeout=20, what="containerd answers")


def digests(layout: Layout) -> dict[str, str]:
    """Return what the node has: image name -> digest."""
    rows = [line.split() for line in ctr(layout, "images", "ls").splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def load(layout: Layout, image: Image) -> bool:
    """Give the node an image, layer by layer only what it lacks; say whether anything was new."""
    if digests(layout).get(image.name) == image.digest:
        return False
    present = layout.containerd_root / "io.containerd.content.v1.content" / "blobs" / "sha256"
    known = {blob for blob in image.layers if (present / blob.removeprefix("sha256:")).exists()}
    if not _import(layout, image, without=known) and not _import(layout, image, without=set()):
        raise TestBedError(f"containerd does not accept the image {image.name}")
    return True


def name_by_content(layout: Layout, image: Image) -> str:
    """Give an image of the node a second name that no other content can have, and return it.

    Such names of earlier builds go, except where a container still uses them.
    """
    exact = f"{image.name}-{image.digest.removeprefix('sha256:')[:12]}"
    known = digests(layout)
    in_use = {row.split()[1] for row in ctr(layout, "containers", "ls").splitlines()[1:]}
    stale = [name for name in known if name.startswith(f"{image.name}-") and name not in {exact, *in_use}]
    if stale:
        ctr(layout, "images", "rm", *stale)
    if exact not in known:
        ctr(layout, "images", "tag", image.name, exact)
    return exact


def load_archive(layout: Layout, archive: Path) -> None:
    """Give the node every image of an archive as `docker save` or `podman save` write it."""
    ctr(layout, "images", "import", archive)


def remove_containers(layout: Layout) -> bool:
    """Forget every container in a running containerd; say whether there was one."""
    found = ctr(layout, "containers", "ls", "-q").split()
    for number in range(0, len(found), 100):
        attempt(
            "ctr",
            "-a",
            layout.containerd_socket,
            "-n",
            "k8s.io",
            "containers",
            "rm",
            *found[number : number + 100],
        )
    return bool(found)


def kill_pods(layout: Layout) -> None:
    """Kill what runs in containers. Shims know their cluster by its socket, so no stranger is hit."""
    for shim in _shims(layout):
        for child in _children(shim):
            processes.kill(child, signal.SIGKILL)


def kill_shims(layout: Layout) -> None:
    """Kill the containers' parents that outlived containerd, and remove the sockets they leave."""
    for shim, sandbox in _shims(layout).items():
        for pid in (*_children(shim), shim):
            processes.kill(pid, signal.SIGKILL)
        # The name that containerd's shim package gives the socket.
        name = sha256(f"{layout.containerd_socket}/k8s.io/{sandbox}".encode()).hexdigest()
        Path("/run/containerd/s", name).unlink(missing_ok=True)
    until(lambda: not _shims(layout), timeout=10, what="the containers' shims end")


def processes_of(pod_uid: str) -> list[int]:
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


def _import(layout: Layout, image: Image, *, without: set[str]) -> bool:
    argv = ["ctr", "-a", str(layout.containerd_socket), "-n", "k8s.io", "images", "import", "-"]
    sink = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment())
    assert sink.stdin is not None
    try:
        with tarfile.open(fileobj=sink.stdin, mode="w|") as tar:
            _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
            _add(tar, "index.json", json.dumps(image.index()).encode())
            for blob in [*image.documents, *(layer for layer in image.layers if layer not in without)]:
                tar.add(image.blob(blob), f"blobs/sha256/{blob.removeprefix('sha256:')}")
        sink.stdin.close()
    except BrokenPipeError:
        pass
    return sink.wait() == 0


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _shims(layout: Layout) -> dict[int, str]:
    """Return the pid of each shim of this cluster and the sandbox it stands for."""
    found = {}
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        argv = _argv(pid)
        if "containerd-shim" in argv[0] and str(layout.containerd_socket) in argv and "-id" in argv:
            found[pid] = argv[argv.index("-id") + 1]
    return found


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
