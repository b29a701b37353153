"""Pytest plugin: one cluster a test run, and what tests do with it. Use `pytest_plugins = ["tests.cluster.fixtures"]`."""

import json
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from tests.cluster import provider, settings
from tests.cluster.api import until
from tests.cluster.locks import locked
from tests.cluster.settings import TestBedError

FAKE_NODES = 3


class Cluster:
    """The running cluster as tests see it."""

    def __init__(self, chosen: provider.Provider) -> None:
        self.provider = chosen
        self._namespaces: list[str] = []

    @property
    def kubeconfig(self) -> Path:
        return self.provider.kubeconfig

    def kubectl(self, *args: str, input: str | None = None) -> str:  # noqa: A002 - as subprocess names it
        """Return what kubectl prints; TestBedError carries what it says when it fails."""
        return self.provider.kubectl(*args, stdin=input)

    def helm(self, *args: str) -> str:
        return self.provider.helm(*args)

    def apply(self, manifest: str | Path, *, namespace: str | None = None) -> str:
        """Apply a manifest, given as text or file, server-side."""
        text = manifest.read_text() if isinstance(manifest, Path) else manifest
        place = ("-n", namespace) if namespace else ()
        return self.kubectl("apply", "--server-side", *place, "-f", "-", input=text)

    def get(self, *args: str) -> dict[str, Any]:
        """Return an object, or a list of them, as `kubectl get` finds it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *args, "-o", "json"))
        return found

    def wait(self, target: str, condition: str, *, namespace: str = "default", timeout: float = 60) -> None:
        """Wait as `kubectl wait` does, for instance for `condition=Ready` or `delete`."""
        self.kubectl("wait", target, f"--for={condition}", "-n", namespace, f"--timeout={timeout:g}s")

    def wait_for(
        self,
        condition: Callable[[], bool],
        timeout: float = 60,
        *,
        watch: tuple[str, ...] = (),
        what: str = "the condition holds",
    ) -> None:
        """Wait until the condition holds; with `watch`, arguments of `kubectl get`, it is asked at each event."""
        if not watch:
            until(condition, timeout=timeout, what=what)
            return
        with self._events(*watch, timeout=timeout) as events:
            if condition() or any(condition() for _ in events):
                return
        raise TestBedError(f"{what}: not within {timeout:g} s")

    def namespace(self, *, security: str = "restricted", **labels: str) -> str:
        """Create a namespace of a unique name; it is deleted at the end of the run."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        marks = {"pod-security.kubernetes.io/enforce": security} | labels
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": marks}}
        self.apply(json.dumps(body))
        self._namespaces.append(name)
        return name

    def load_image(self, image: str | Path) -> None:
        self.provider.load_image(image)

    def restart_apiserver(self) -> None:
        """Kill the API server as a crash would, and return when it serves again."""
        self.provider.restart_apiserver()

    def forget_namespaces(self) -> None:
        """Delete the namespaces that were made here, without waiting for their end."""
        names, self._namespaces = self._namespaces, []
        if names:
            self.kubectl("delete", "namespace", *names, "--wait=false", "--ignore-not-found")

    @contextmanager
    def _events(self, *watch: str, timeout: float) -> Iterator[Iterator[str]]:
        """Yield lines as things happen, until the time is up."""
        program, env = self.provider.tool("kubectl")
        argv = [str(program), "get", *watch, "--watch", "-o", "name"]
        child = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert child.stdout is not None
        alarm = threading.Timer(timeout, child.kill)
        alarm.start()
        try:
            with child.stdout as lines:
                yield lines
        finally:
            alarm.cancel()
            child.kill()
            child.wait()


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Boot one cluster with a node for the whole run, or reuse one with EVERESTHOOD_CLUSTER_KEEP=1."""
    keep = settings.keep_cluster()
    with ExitStack() as stack:
        with visible(pytestconfig):
            chosen = provider.choose()
            busy = "another test run uses the cluster; this one begins when that ends"
            stack.enter_context(locked("cluster-in-use", shared=keep, busy=busy))
            lent = Cluster(chosen)
            stack.callback(lent.forget_namespaces if keep else chosen.stop)
            if not keep:
                chosen.stop()
            chosen.start()
        yield lent


def visible(config: pytest.Config) -> AbstractContextManager[None]:
    """Let progress through to whoever waits, past pytest's capture."""
    capture = config.pluginmanager.getplugin("capturemanager")
    return capture.global_and_fixture_disabled() if capture else nullcontext()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Lend a test a namespace under restricted pod security; it is deleted after the test."""
    name = cluster.namespace()
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


@pytest.fixture(scope="session")
def fake_nodes(cluster: Cluster) -> int:
    """Add nodes that only pretend (`type=fake`, tainted `fake=true:NoSchedule`) and return their number."""
    if not cluster.provider.has_fake_nodes:
        pytest.skip("simulated nodes are only in the embedded cluster")
    cluster.provider.start(fake_nodes=FAKE_NODES)
    return FAKE_NODES
