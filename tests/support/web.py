"""The REST API for tests: a real server on a free port, over the memory twin or a real PostgreSQL."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2
import msgspec
from tests.support.reviews import FakeApiServer

from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.adapters.languages import Languages
from everesthood.adapters.memory.bell import MemoryBell
from everesthood.apis import wire
from everesthood.apis.names import API_PREFIX
from everesthood.domain.limits import UNLIMITED, Limits
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.entrypoints.web.main import make_server
from everesthood.entrypoints.web.parts import Parts
from everesthood.entrypoints.web.streams import Streams
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.control import ControlStore
from everesthood.usecases.ports.record import RunStore, WorkerSeat, WorkStore
from everesthood.usecases.ports.registry import (
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
    Registry,
)
from everesthood.usecases.request_run import RequestRun

SCHEMA = {
    "type": "object",
    "required": ["text"],
    "properties": {"text": {"type": "string", "maxLength": 300_000}},
    "additionalProperties": False,
}
TEMPLATE = {
    "displayName": "Summarizer",
    "inputSchema": SCHEMA,
    "steps": [{"name": "shout", "transform": {"value": "input.text"}}],
    "queue": {"maxAttempts": 3, "maxRunSeconds": 60},
}
Outcome = Literal["succeeded", "failed", "ambiguous", "cancelled", "released"]
UIDS = {
    ("acme", "summarizer"): "11111111-1111-4111-8111-111111111111",
    ("acme", "young"): "22222222-2222-4222-8222-222222222222",
    ("globex", "summarizer"): "33333333-3333-4333-8333-333333333333",
}
DAILY = Schedule(
    name="daily",
    cron="0 6 * * *",
    time_zone="Europe/Berlin",
    at=None,
    overlap=Overlap.SKIP,
    missed=Missed.LATEST,
    max_missed=10,
    jitter_seconds=30,
    suspended=False,
    input=b'{"text":"of the schedule"}',
)
REVISION = "0123456789abcdef"
EVERYTHING = (
    *("create run", "list runs", "get runs", "create cancel", "get logs", "list schedules"),
    *("create approve", "create resolve", "list queue", "get queue", "create pause", "create stop"),
)


@dataclass(slots=True, kw_only=True)
class Stores:
    """The record as the tests see it."""

    runs: RunStore
    work: WorkStore
    registry: Registry
    control: ControlStore


@dataclass(slots=True, kw_only=True)
class Api:
    """A running server, its world and a client for Ada, who may do everything in acme."""

    stores: Stores
    kubernetes: FakeApiServer
    bell: MemoryBell
    client: httpx2.AsyncClient
    address: str = ""
    streams: Streams = field(default_factory=Streams)
    refused: list[dict[str, str]] = field(default_factory=list)
    """What is to be audited of refused permissions."""

    def url(self, path: str, namespace: str = "acme") -> str:
        return f"{API_PREFIX}/namespaces/{namespace}/{path}"

    async def start(self, text: str = "hello", **headers: str) -> httpx2.Response:
        body = {"input": {"text": text}}
        return await self.client.post(self.url("instances/summarizer/runs"), json=body, headers=headers)

    async def worker(self, **request: Any) -> wire.WorkReply:
        uid = UIDS["acme", "summarizer"]
        seat = WorkerSeat(
            instance_uid=uid, namespace="acme", instance="summarizer", revision=REVISION, pod="w-1"
        )
        return await self.stores.work.work(seat, wire.WorkRequest(**request))

    async def claim(self) -> wire.Assignment:
        return (await self.worker(want=1)).assignments[0]

    async def log(self, held: wire.Assignment, *texts: str) -> None:
        lines = (
            wire.LogLine(
                run=held.run, fence=held.fence, at=time.time(), level="info", message=text, step="shout"
            )
            for text in texts
        )
        await self.worker(logs=tuple(lines))

    async def finish(
        self, held: wire.Assignment, output: object = "HELLO", outcome: Outcome = "succeeded"
    ) -> None:
        raw = msgspec.Raw(json.dumps(output).encode())
        step = wire.StepRecord(name="shout", state="succeeded", output=raw, finished_at=time.time())
        end = wire.Finish(
            run=held.run, fence=held.fence, outcome=outcome, output=raw, steps=(step,),
            reason="" if outcome == "succeeded" else "StepFailed",
        )  # fmt: skip
        await self.worker(finished=(end,))


async def until(happened: Callable[[], object]) -> None:
    """Wait for what tells nobody that it happened."""
    async with asyncio.timeout(10):
        while not happened():
            await asyncio.sleep(0.005)


async def publish(
    registry: Registry,
    template: Mapping[str, object] = TEMPLATE,
    template_limits: Limits = UNLIMITED,
    **more: Any,
) -> None:
    """Publish two instances that can run, of two organisations, and one that cannot yet."""
    for namespace in {namespace for namespace, _ in UIDS}:
        await registry.publish_template(
            PublishedTemplate(
                uid=f"template-{namespace}",
                namespace=namespace,
                name="summarizer",
                generation=1,
                limits=template_limits,
            )
        )
    for (namespace, name), uid in UIDS.items():
        spec = json.dumps(template).encode()
        await registry.publish_revision(
            PublishedRevision(namespace=namespace, digest=REVISION, template="summarizer", spec=spec)
        )
        await registry.publish_instance(
            PublishedInstance(
                uid=uid,
                namespace=namespace,
                name=name,
                generation=1,
                template="summarizer",
                service_account=f"agent-{name}",
                current_revision=None if name == "young" else REVISION,
                config=b"{}",
                schedules=(DAILY,),
                **more,
            )
        )


def parts_of(
    stores: Stores,
    kubernetes: FakeApiServer,
    bell: MemoryBell,
    streams: Streams,
    refused: list[dict[str, str]] | None = None,
) -> Parts:
    """Return what the routes need, over fakes of all but the record."""
    told = [] if refused is None else refused
    return Parts(
        authorizer=Authorizer(
            KubernetesIdentities(kubernetes), time.monotonic, lambda **said: told.append(said)
        ),
        runs=stores.runs,
        control=stores.control,
        bell=bell,
        request_run=RequestRun(
            runs=stores.runs,
            bell=bell,
            schemas=Languages(),
            now=lambda: datetime.now(UTC),
            random=os.urandom,
        ),
        streams=streams,
    )


@contextlib.asynccontextmanager
async def running_api(stores: Stores, *, heartbeat_seconds: float = 15.0) -> AsyncIterator[Api]:
    """Serve on a free port until the end of the block."""
    await publish(stores.registry)
    kubernetes = FakeApiServer()
    kubernetes.know("ada-token", "ada", "everesthood-web")
    kubernetes.grant("ada", "acme", *EVERYTHING)
    bell, streams = MemoryBell(), Streams(heartbeat_seconds=heartbeat_seconds)
    refused: list[dict[str, str]] = []
    parts = parts_of(stores, kubernetes, bell, streams, refused)
    server = make_server(parts, port=0, host="127.0.0.1")
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    headers = {"Authorization": "Bearer ada-token"}
    async with httpx2.AsyncClient(base_url=address, headers=headers, timeout=20, trust_env=False) as client:
        try:
            yield Api(
                stores=stores,
                kubernetes=kubernetes,
                bell=bell,
                client=client,
                address=address,
                streams=streams,
                refused=refused,
            )
        finally:
            server.stop()
            await serving
