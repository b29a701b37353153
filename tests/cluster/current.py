"""The provider for a cluster that was there before: only ever the kubeconfig context that CONTEXT names."""

import os
import shutil
from pathlib import Path
from signal import Signals

from tests.cluster.commands import environment, run
from tests.cluster.kind import UPSTREAM
from tests.cluster.progress import say
from tests.cluster.settings import REGISTRY, TestBedError, cache


class CurrentCluster:
    """Someone's cluster: it is used, but neither started, stopped nor given images."""

    def __init__(self) -> None:
        self._context = os.environ.get("CONTEXT", "")
        if not self._context:
            raise TestBedError("CLUSTER=current needs CONTEXT=<name>; see `kubectl config get-contexts`")
        missing = [name for name in ("kubectl", "helm") if not shutil.which(name)]
        if missing:
            raise TestBedError(f"CLUSTER=current needs these programs on PATH: {', '.join(missing)}")

    @property
    def registry(self) -> str:
        """Return where our images were pushed, which nobody but the cluster's owner can know."""
        named = os.environ.get("IMAGES", "").rstrip("/")
        if not named or "://" in named:
            raise TestBedError(
                "CLUSTER=current needs IMAGES=<registry>/<path>, without https://: build everesthood:dev and"
                " expense-check:dev, push them there, and let the cluster pull them; tests/cluster/README.md says how"
            )
        return named

    @property
    def kubeconfig(self) -> Path:
        return cache() / "current" / "kubeconfig"

    @property
    def host_address(self) -> str:
        raise TestBedError("CLUSTER=current: how your cluster reaches this machine is not known")

    @property
    def reaches_services(self) -> bool:
        return False

    @property
    def has_fake_nodes(self) -> bool:
        return False

    def start(self, *, node: bool = True, fake_nodes: int = 0) -> None:
        """Write a kubeconfig with the named context alone, so that no other can be hit."""
        del node
        if fake_nodes:
            raise TestBedError("fake nodes need CLUSTER=embedded")
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        self.kubeconfig.touch(mode=0o600)
        view = ("config", "view", "--context", self._context, "--minify", "--flatten")
        self.kubeconfig.write_text(run("kubectl", *view))
        self.kubectl("get", "--raw", "/readyz")
        say(f"using the context {self._context}: export KUBECONFIG={self.kubeconfig}")

    def stop(self) -> None:
        self.kubeconfig.unlink(missing_ok=True)

    def status(self) -> str:
        if not self.kubeconfig.exists():
            return "stopped"
        return f"running  context {self._context}\n{self.kubectl('get', 'nodes')}"

    def load_image(self, image: str | Path) -> None:
        """Trust that the cluster can pull it: a cluster of yours takes images from its registry."""
        say(f"CLUSTER=current: {self.name_by_content(str(image))} must be pullable by the cluster")

    def name_by_content(self, image: str) -> str:
        """Return the name in a registry, for one of the test bed: what it stands for is the registry's business."""
        known = image.startswith(f"{REGISTRY}/")
        return UPSTREAM.get(image) or (f"{self.registry}/{image.partition('/')[2]}" if known else image)

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        program, env = self.tool("kubectl")
        return run(program, *args, stdin=stdin, env=env)

    def helm(self, *args: str) -> str:
        program, env = self.tool("helm")
        return run(program, *args, env=env)

    def tool(self, name: str) -> tuple[Path, dict[str, str]]:
        return Path(shutil.which(name) or name), environment(KUBECONFIG=str(self.kubeconfig))

    def restart_apiserver(self) -> None:
        raise TestBedError("CLUSTER=current: the API server of your cluster is not the tests' to kill")

    def signal_pod(self, uid: str, number: Signals) -> None:
        raise TestBedError(f"CLUSTER=current: pod {uid} is not the tests' to send {number.name}")
