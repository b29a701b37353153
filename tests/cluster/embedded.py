"""The embedded provider: a control plane, and on request a node, as processes of this machine."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from signal import Signals
from types import MappingProxyType
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from tests.cluster import (
    binaries,
    components,
    containers,
    images,
    leftovers,
    manifests,
    network,
    packages,
    pki,
    processes,
)
from tests.cluster.api import Api, until
from tests.cluster.commands import environment, run
from tests.cluster.locks import locked
from tests.cluster.progress import Stopwatch, say
from tests.cluster.settings import BASE_IMAGE, NODE, PAUSE_IMAGE, REPOSITORY, Layout, TestBedError

CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
READY_SECONDS = 90

More = Mapping[str, Sequence[str]]
"""Arguments that a component gets besides its own."""
NOTHING_MORE: More = MappingProxyType({})


class EmbeddedCluster:
    """One Kubernetes in a network namespace of its own; all its state is on disk, so any process can stop it."""

    def __init__(self, layout: Layout | None = None) -> None:
        self.layout = layout or Layout()

    @property
    def kubeconfig(self) -> Path:
        return self.layout.kubeconfig

    @property
    def host_address(self) -> str:
        return self.layout.host_ip

    @property
    def reaches_services(self) -> bool:
        return True

    @property
    def has_fake_nodes(self) -> bool:
        return True

    def start(self, *, node: bool = True, fake_nodes: int = 0, more: More = NOTHING_MORE) -> None:
        """Boot; what an earlier cluster left is removed first, a healthy one is kept."""
        with self._alone():
            self._start(node=node, fake_nodes=fake_nodes, more=more)

    def stop(self) -> None:
        with self._alone():
            leftovers.remove(self.layout)

    def status(self) -> str:
        known = processes.records(self.layout)
        if not known:
            return "stopped"
        lines = [
            f"  {name:24} {'pid ' + str(record.pid) if record.is_alive() else 'DEAD'}"
            for name, record in known.items()
        ]
        state = "running" if self._is_healthy(node="kubelet" in known) else "broken"
        return "\n".join([f"{state}  KUBECONFIG={self.kubeconfig}", *lines])

    def load_image(self, image: str | Path) -> None:
        self.require_running()
        if isinstance(image, Path):
            containers.load_archive(self.layout, image)
        elif containers.load(self.layout, images.ensure(image)):
            say(f"  the node has a new {image}")

    def name_by_content(self, image: str) -> str:
        return containers.name_by_content(self.layout, images.ensure(image))

    def kubectl(self, *args: str, stdin: str | None = None) -> str:
        self.require_running()
        program, env = self.tool("kubectl")
        return run(program, *args, stdin=stdin, env=env)

    def helm(self, *args: str) -> str:
        program, env = self.tool("helm")
        return run(program, *args, env=env)

    def tool(self, name: str) -> tuple[Path, dict[str, str]]:
        # Caches of their own: an earlier cluster at the same address had other APIs.
        home = self.layout.state / "tools"
        caches = {
            "KUBECACHEDIR": home / "kube",
            "HELM_CACHE_HOME": home / "helm",
            "HELM_CONFIG_HOME": home / "helm",
        }
        paths = caches | {"KUBECONFIG": self.kubeconfig, "HELM_DATA_HOME": home / "helm"}
        return binaries.component(name), environment(**{key: str(path) for key, path in paths.items()})

    def restart_apiserver(self) -> None:
        self.require_running()
        name = "kube-apiserver"
        argv = processes.records(self.layout)[name].argv
        processes.stop(self.layout, name, patience=0)
        processes.spawn(self.layout, name, argv)
        self._wait(Api(self.layout).ready, name)

    def signal_pod(self, uid: str, number: Signals) -> None:
        """Find the processes by their cgroup: they are processes of this machine."""
        pids = containers.processes_of(uid)
        if not pids:
            raise TestBedError(f"pod {uid} has no process")
        for pid in pids:
            processes.kill(pid, number)

    def require_running(self) -> None:
        """Say what to do, instead of failing at an address where nothing answers."""
        if not processes.records(self.layout):
            raise TestBedError("the cluster is not running; start it with `python -m tests.cluster start`")

    def kill(self, component: str) -> None:
        """Crash one component, for tests of what happens then."""
        processes.stop(self.layout, component, patience=0)

    def _start(self, *, node: bool, fake_nodes: int, more: More) -> None:
        if self._is_healthy(node=node):
            say(f"the cluster is running already: export KUBECONFIG={self.kubeconfig}")
            self._add_fake_nodes(fake_nodes)
            return
        self._prepare(node=node)
        watch = Stopwatch()
        try:
            self._boot(watch, node=node, more=more)
            self._add_fake_nodes(fake_nodes)
        except TestBedError as error:
            raise TestBedError(f"{error}\n{self._post_mortem()}") from error
        watch.mark(f"cluster ready: export KUBECONFIG={self.kubeconfig}")

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other processes from starting or stopping this cluster in the meantime."""
        return locked(f"cluster-{self.layout.link}")

    def _prepare(self, *, node: bool) -> None:
        if os.geteuid() != 0:
            raise TestBedError("the embedded cluster needs root: it makes network namespaces and mounts")
        packages.ensure()
        # What is made for the first time is mostly compiled, images mostly fetched: neither waits for the other.
        pictures = _Background(images.build_all) if node and not binaries.are_built() else None
        binaries.kube()
        if node:
            binaries.kube_router()
        if pictures:
            pictures.result()
        if node:
            images.ensure(PAUSE_IMAGE)
            images.ensure(BASE_IMAGE)
        leftovers.remove(self.layout)

    def _boot(self, watch: Stopwatch, *, node: bool, more: More) -> None:
        say("starting Kubernetes")
        self.layout.state.mkdir(parents=True, mode=0o711)
        if node:
            leftovers.remember_machine(self.layout)
        network.create(self.layout, routes=node)
        pki.create(self.layout)
        watch.mark("network and certificates")
        self._spawn("etcd", components.etcd(self.layout))
        self._spawn("kube-apiserver", components.apiserver(self.layout, more.get("kube-apiserver", ())))
        runtime = _Background(partial(self._start_runtime, watch)) if node else None
        self._start_control_plane(watch, more)
        if runtime:
            runtime.result()
            self._start_node(watch)

    def _start_control_plane(self, watch: Stopwatch, more: More) -> None:
        api = Api(self.layout)
        self._wait(api.ready, "kube-apiserver")
        watch.mark("API server ready")
        name = "kube-controller-manager"
        self._spawn(name, [*components.controller_manager(self.layout), *more.get(name, ())])
        self._spawn("kube-scheduler", components.scheduler(self.layout))
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._wait(lambda: api.get(account) is not None, "kube-controller-manager")
        watch.mark("controllers at work")

    def _start_runtime(self, watch: Stopwatch) -> None:
        """Start containerd while the control plane boots; neither needs the other."""
        self._spawn("containerd", components.containerd(self.layout))
        containers.wait_ready(self.layout)
        if containers.remove_containers(self.layout):
            # A crash left them; a second start makes containerd's own memory agree.
            processes.stop(self.layout, "containerd")
            self._spawn("containerd", components.containerd(self.layout))
            containers.wait_ready(self.layout)
        for name in (PAUSE_IMAGE, BASE_IMAGE):
            containers.load(self.layout, images.ensure(name))
        watch.mark("containerd has its images")

    def _start_node(self, watch: Stopwatch) -> None:
        api = Api(self.layout)
        self._spawn("kubelet", components.kubelet(self.layout))
        self._spawn("kube-proxy", components.proxy(self.layout))
        self._spawn("coredns", components.coredns(self.layout))
        for path, body in (*manifests.dns(self.layout), *manifests.storage(self.layout)):
            api.apply(path, body)
        self._wait(lambda: api.get(f"/api/v1/nodes/{NODE}") is not None, "kubelet")
        # Not earlier: kube-router gives up when its node is unknown.
        self._spawn("kube-router", components.router(self.layout))
        self._wait(lambda: _is_ready(api, NODE), "kubelet")
        watch.mark("node ready")
        ip = self.layout.node_ip
        self._wait(lambda: _answers(f"http://{ip}:8181/ready"), "coredns")
        self._wait(lambda: _answers(f"http://{ip}:10256/healthz"), "kube-proxy")
        self._wait(lambda: _answers(f"http://{ip}:20244/healthz"), "kube-router")
        watch.mark("DNS, Services and NetworkPolicy at work")

    def _add_fake_nodes(self, number: int) -> None:
        if number == 0:
            return
        processes.stop(self.layout, "fake-kubelet")
        argv = [sys.executable, "-m", "tests.cluster.fakekubelet", str(number)]
        argv += [str(self.layout.state), self.layout.subnet]
        processes.spawn(self.layout, "fake-kubelet", ["env", f"PYTHONPATH={REPOSITORY}", *argv], inside=False)
        api = Api(self.layout)
        self._wait(lambda: _is_ready(api, f"fake-{number - 1}"), "fake-kubelet")

    def _is_healthy(self, *, node: bool) -> bool:
        known = processes.records(self.layout)
        wanted = [*CONTROL_PLANE, *(("kubelet", "kube-router") if node else ())]
        alive = all(name in known and known[name].is_alive() for name in wanted)
        return alive and Api(self.layout).ready()

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        processes.spawn(self.layout, name, argv)

    def _wait(self, condition: Callable[[], bool], name: str) -> None:
        """Wait for a component, but no longer than it lives."""

        def settled() -> bool:
            if not processes.records(self.layout)[name].is_alive():
                raise TestBedError(f"{name} ended by itself")
            return condition()

        try:
            until(settled, timeout=READY_SECONDS, what=f"{name} is ready")
        except TestBedError as error:
            raise TestBedError(f"{error}\n{processes.log_tail(self.layout, name)}") from error

    def _post_mortem(self) -> str:
        dead = [name for name, record in processes.records(self.layout).items() if not record.is_alive()]
        return f"ended by themselves: {', '.join(dead) or 'none'}; all logs are in {self.layout.logs}"


class _Background:
    """A thread whose error is raised where its result is waited for."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def result(self) -> None:
        self._thread.join()
        if self._error:
            raise self._error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - carried to the thread that waits
            self._error = error


def _is_ready(api: Api, node: str) -> bool:
    found = api.get(f"/api/v1/nodes/{node}") or {}
    conditions = found.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _answers(url: str) -> bool:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False
