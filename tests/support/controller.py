"""A controller in this process: against a real API server, with the record in memory."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes.aio.client import ApiClient
from ruamel.yaml import YAML

from everesthood.adapters.kubernetes.client import MERGE_PATCH, Client, connect, object_path
from everesthood.adapters.memory.record import Record
from everesthood.adapters.memory.registry import MemoryRegistry
from everesthood.apis import names
from everesthood.bootstrap.controller import Controller, build
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.controller.main import serve
from everesthood.settings import Settings
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.registry import CredentialObservation

USER = "a-person"
PATIENCE_SECONDS = 30.0


class RecordingClient(Client):
    """A client that notes every write, but for those that keep the lease."""

    def __init__(self, api: ApiClient) -> None:
        super().__init__(api)
        self.writes: list[tuple[str, str]] = []

    async def request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        if method != "GET" and "/leases" not in path:
            self.writes.append((method, path))
        return await super().request(method, path, **options)


def settings_for(kubeconfig: str, **changes: Any) -> Settings:
    """Return settings of a controller that reacts quickly."""
    chosen: dict[str, Any] = {
        "kubeconfig": kubeconfig,
        "namespace": "default",
        "worker_image": "example.test/worker:1",
        "worker_grace_seconds": 1,
        "rollout_seconds": 5,
        "node_selector_fake": True,
        "metrics_port": 0,
    }
    return Settings(**{**chosen, **changes})


@dataclass(slots=True)
class Running:
    """A controller at work and the record that it publishes to."""

    controller: Controller
    client: RecordingClient
    record: Record

    async def at_rest(self, namespace: str) -> None:
        """Wait until there is nothing to do in a namespace, and stays so for a moment."""
        queue, calm = self.controller.queue, 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while calm < 5:
                await asyncio.sleep(0.1)
                busy = {key.namespace for key in (*queue._since, *queue._active, *queue._timers)}
                calm = 0 if namespace in busy else calm + 1

    def writes(self, namespace: str) -> list[tuple[str, str]]:
        """Return what was written to a namespace."""
        return [write for write in self.client.writes if f"/namespaces/{namespace}/" in write[1]]


@asynccontextmanager
async def running(
    settings: Settings, record: Record | None = None, *, schedules: bool = True
) -> AsyncIterator[Running]:
    """Run a controller until the block ends."""
    record = record or Record()
    plain = await connect(settings.kubeconfig)
    client = RecordingClient(plain._api)
    controller = build(settings, client, MemoryRegistry(record))
    stop = asyncio.Event()
    scheduler = asyncio.create_task(play_scheduler(record) if schedules else asyncio.sleep(0))
    work = asyncio.create_task(serve(controller, stop))
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (controller.sweeper.synced.is_set() and controller.lease.leads.is_set()):
                await asyncio.sleep(0.02)
                if work.done():
                    work.result()
                    raise AssertionError("the controller ended by itself")
        yield Running(controller, client, record)
    finally:
        stop.set()
        scheduler.cancel()
        await asyncio.wait({work}, timeout=PATIENCE_SECONDS)
        await client.close()
        if work.done():
            work.result()


async def play_scheduler(record: Record) -> None:
    """Do what scheduler and gateway do for the record: make queues, look at credentials."""
    while True:
        for uid, row in list(record.instances.items()):
            if not row.queue_ready and not row.deleted:
                row.queue_ready = True
                record.registry_changed.tell(uid)
        for uid, seen in list(record.credentials.items()):
            if seen.seen is None:
                seen.seen = CredentialObservation(
                    reason="CredentialVerified", fingerprint="0123456789abcdef", changed_at=None
                )
                record.registry_changed.tell(uid)
        await asyncio.sleep(0.05)


HUGE = {"cpu": "5000", "cpuLimit": "5000"}
"""Resources that no node has: pods that ask for them never become ready."""


async def play_kubelet(client: Client) -> None:
    """Make worker pods ready, but for the huge."""
    pods = "/api/v1/pods"
    query = {"labelSelector": f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"}
    while True:
        with suppress(EveresthoodError):
            for pod in (await client.get(pods, query=query))["items"]:
                is_huge = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "5k"
                if not is_huge and pod["status"].get("phase") != "Running":
                    await _ready(client, pod["metadata"])
        await asyncio.sleep(0.1)


async def _ready(client: Client, meta: dict[str, Any]) -> None:
    path = object_path("v1", "pods", namespace=meta["namespace"], name=meta["name"])
    at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": at}
    body = {"status": {"phase": "Running", "conditions": [ready]}}
    await client.request("PATCH", f"{path}/status", body=body, content_type=MERGE_PATCH)


def template(name: str = "greeter", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """Return an AgentTemplate."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "AgentTemplate",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "displayName": "Greeter",
            "steps": [{"name": "greet", "transform": {"value": "'Hello'"}}],
            **spec,
        },
    }


def instance(name: str = "hello", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """Return an AgentInstance."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "AgentInstance",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"templateRef": {"name": "greeter"}, **spec},
    }


PLURALS = {
    "AgentTemplate": "agenttemplates",
    "AgentInstance": "agentinstances",
    "AgentCredential": "agentcredentials",
    "Namespace": "namespaces",
}


def path_to(body: dict[str, Any]) -> str:
    """Return the path of a manifest; lists leave out the kind of their items, which are instances here."""
    meta = body["metadata"]
    return object_path(
        names.API_VERSION,
        PLURALS[body.get("kind", "AgentInstance")],
        namespace=meta.get("namespace", ""),
        name=meta["name"],
    )


CRDS = Path(__file__).parents[2] / "crds"
_CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


async def install_crds(kubeconfig: str) -> None:
    """Apply the CRDs and wait until they are served."""
    async with await connect(kubeconfig) as client:
        for path in sorted(CRDS.glob("*.yaml")):
            body = YAML(typ="safe", pure=True).load(path)
            await client.apply(f"{_CRD_PATH}/{body['metadata']['name']}", body, manager=USER)
        for plural in ("agentinstances", "agenttemplates", "agentcredentials"):
            listing = object_path(names.API_VERSION, plural)
            await eventually(lambda listing=listing: get(client, listing))


async def apply(client: Client, *bodies: dict[str, Any]) -> list[dict[str, Any]]:
    """Apply manifests as a person does, server-side."""
    return [await client.apply(path_to(body), body, manager=USER) for body in bodies]


async def eventually(
    look: Callable[[], Awaitable[Any]], seconds: float = PATIENCE_SECONDS, *, pause: float = 0.1
) -> Any:
    """Return the first true answer."""
    seen: Any = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                seen = await look()
                if seen:
                    return seen
                await asyncio.sleep(pause)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s; last seen: {seen}") from None


async def get(client: Client, path: str) -> dict[str, Any] | None:
    """Return an object, None when it is not there."""
    try:
        return await client.get(path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


def condition(body: dict[str, Any] | None, kind: str) -> dict[str, Any]:
    """Return a condition of an object, empty when it has none."""
    found = ((body or {}).get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] == kind), {})


def process_environment(kubeconfig: str) -> dict[str, str]:
    """Return the environment of a controller in a process of its own."""
    return {**os.environ, "EVERESTHOOD_KUBECONFIG": kubeconfig}
