"""The kind provider: a node in a Docker container, images built or pulled by Docker."""

import shutil
import tempfile
from pathlib import Path
from signal import Signals

from tests.cluster.api import until
from tests.cluster.commands import attempt, environment, run
from tests.cluster.progress import say, step
from tests.cluster.settings import (
    BASE_IMAGE,
    OPERATOR_IMAGE,
    POSTGRES_IMAGE,
    REPOSITORY,
    VALKEY_IMAGE,
    TestBedError,
    cache,
)

NAME = "everesthood-test"
NODE_CONTAINER = f"{NAME}-control-plane"
# Our names -> what stands for them where a registry can be reached.
UPSTREAM = {
    POSTGRES_IMAGE: "docker.io/library/postgres:17",
    VALKEY_IMAGE: "docker.io/valkey/valkey:8",
    BASE_IMAGE: "docker.io/library/python:3.13-slim",
}

# In shell, as the node's image has neither Python nor a way to ask for a cgroup's processes by a pod's uid.
# The sandbox's own process is left alone.
_SIGNAL = """
proc=$1 signal=$2 hit=
for folder in "$proc"/[0-9]*; do
    grep -qF -e "$3" -e "$4" "$folder/cgroup" 2>/dev/null || continue
    case "$(tr '\\0' ' ' 2>/dev/null <"$folder/cmdline")" in /pause*) continue ;; esac
    hit=1
    kill -s "$signal" "${folder##*/}" 2>/dev/null
done
test "$hit"
"""


class KindCluster:
    """One kind cluster of a fixed name; kind 0.24 and newer enforce NetworkPolicy themselves."""

    def __init__(self) -> None:
        missing = [name for name in ("docker", "kind", "kubectl", "helm") if not shutil.which(name)]
        if missing:
            raise TestBedError(f"CLUSTER=kind needs these programs on PATH: {', '.join(missing)}")

    @property
    def kubeconfig(self) -> Path:
        return cache() / "kind" / "kubeconfig"

    @property
    def host_address(self) -> str:
        """Return the gateway of the node's network, which is this machine where Docker runs on Linux."""
        gateway = "{{range .NetworkSettings.Networks}}{{.Gateway}} {{end}}"
        found = run("docker", "inspect", "--format", gateway, NODE_CONTAINER).split()
        if not found:
            raise TestBedError(
                f"Docker's network of {NODE_CONTAINER} has no gateway, so no way to this machine"
            )
        return found[0]

    @property
    def reaches_services(self) -> bool:
        return False

    @property
    def has_fake_nodes(self) -> bool:
        return False

    def start(self, *, node: bool = True, fake_nodes: int = 0) -> None:
        """Create the cluster; kind knows none without a node, so `node` changes nothing."""
        del node
        if fake_nodes:
            raise TestBedError("fake nodes need CLUSTER=embedded")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        place: list[str | Path] = ["--name", NAME, "--kubeconfig", self.kubeconfig]
        if self._exists():
            run("kind", "export", "kubeconfig", *place)
        else:
            with step("kind creates a cluster; the first time it pulls its node image"):
                run("kind", "create", "cluster", *place, "--wait", "120s")
        # As the embedded cluster does: pods of the tests run from it.
        self.load_image(BASE_IMAGE)
        say(f"cluster ready: export KUBECONFIG={self.kubeconfig}")

    def stop(self) -> None:
        run("kind", "delete", "cluster", "--name", NAME, "--kubeconfig", self.kubeconfig)
        self.kubeconfig.unlink(missing_ok=True)

    def status(self) -> str:
        if not self._exists():
            return "stopped"
        return f"running  KUBECONFIG={self.kubeconfig}\n{self.kubectl('get', 'nodes')}"

    def load_image(self, image: str | Path) -> None:
        if isinstance(image, Path):
            run("kind", "load", "image-archive", image, "--name", NAME)
            return
        with step(f"image {image}"):
            _provide(image)
            _load(image)

    def name_by_content(self, image: str) -> str:
        digest = run("docker", "image", "inspect", "--format", "{{.Id}}", image).strip()
        exact = f"{image}-{digest.removeprefix('sha256:')[:12]}"
        run("docker", "tag", image, exact)
        _load(exact)
        return exact

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        program, env = self.tool("kubectl")
        return run(program, *args, stdin=stdin, env=env)

    def helm(self, *args: str) -> str:
        program, env = self.tool("helm")
        return run(program, *args, env=env)

    def tool(self, name: str) -> tuple[Path, dict[str, str]]:
        return Path(shutil.which(name) or name), environment(KUBECONFIG=str(self.kubeconfig))

    def restart_apiserver(self) -> None:
        """Kill the server's container in the node; the kubelet starts another."""
        before = self._apiserver()
        if not before:
            raise TestBedError(f"{NODE_CONTAINER} runs no API server")
        # Without patience the runtime sends SIGKILL at once.
        run("docker", "exec", NODE_CONTAINER, "crictl", "stop", "--timeout", "0", before)
        until(lambda: self._apiserver() not in ("", before), timeout=90, what="another API server runs")
        until(self._is_ready, timeout=90, what="the API server is ready")

    def signal_pod(self, uid: str, number: Signals) -> None:
        """Find the processes by their cgroup, inside the node: the host's ids of them are not known there."""
        spellings = (uid, uid.replace("-", "_"))
        words = ("/proc", number.name.removeprefix("SIG"), *spellings)
        if not attempt("docker", "exec", NODE_CONTAINER, "bash", "-c", _SIGNAL, "signal", *words):
            raise TestBedError(f"pod {uid} has no process in {NODE_CONTAINER}")

    def _exists(self) -> bool:
        return NAME in run("kind", "get", "clusters").split()

    def _apiserver(self) -> str:
        return run("docker", "exec", NODE_CONTAINER, "crictl", "ps", "-q", "--name", "kube-apiserver").strip()

    def _is_ready(self) -> bool:
        program, _ = self.tool("kubectl")
        return attempt(program, "--kubeconfig", self.kubeconfig, "get", "--raw", "/readyz")


def _load(image: str) -> None:
    """Give the node one image of Docker's, for the platform that Docker runs on.

    `kind load docker-image` fails on an image that was pulled for one platform of several, where Docker
    keeps images in containerd: its archive names layers that are not in it.
    """
    platform = run("docker", "version", "--format", "{{.Server.Os}}/{{.Server.Arch}}").strip()
    with tempfile.TemporaryDirectory(prefix="everesthood-") as folder:
        archive = Path(folder, "image.tar")
        save = ("docker", "image", "save", "-o", archive)
        # Before version 28 Docker has no such choice, and needs none: it keeps one platform.
        if not attempt(*save, "--platform", platform, image):
            run(*save, image)
        run("kind", "load", "image-archive", archive, "--name", NAME)


def _provide(image: str) -> None:
    """Make Docker have the image: ours is built, the others are pulled and given our name."""
    if image == OPERATOR_IMAGE:
        run("docker", "build", "-q", "-t", image, "-f", REPOSITORY / "operator" / "Dockerfile", REPOSITORY)
    elif image in UPSTREAM:
        run("docker", "pull", "-q", UPSTREAM[image])
        run("docker", "tag", UPSTREAM[image], image)
    elif not attempt("docker", "image", "inspect", image):
        raise TestBedError(f"Docker has no image {image}")
