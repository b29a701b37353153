"""An installation with thousands of instances, for the overload test.

Real are the control plane, its token reviews and RBAC, PostgreSQL with fsync, Valkey, and the processes controller,
scheduler, web and gateway. Three things are not, so that two cores can hold it. The nodes only pretend
(`fakekubelet`). So do the workers (`tests.support.crowd`), each with the token that its pod would find mounted. And
the pods are made here and put onto the nodes: instances ask for none, since a ReplicaSet's controller and the
Kubernetes scheduler cost more for each than all that is tested.
"""

import asyncio
import json
import time
import uuid
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from tests.cluster.embedded import EmbeddedCluster
from tests.cluster.progress import say, step
from tests.support.broker import broker_on
from tests.support.controller import apply, condition, eventually, install_crds, instance, template
from tests.support.crowd import Crowd, Pod
from tests.support.lines import HttpLine
from tests.support.postgres import free_port, running_postgres
from tests.support.system import Processes, opens, processes, says, until
from tests.support.valkey import ValkeyServer, running_valkey

from everesthood.adapters.kubernetes.client import Client, connect, object_path
from everesthood.adapters.postgres import Database, migrate
from everesthood.apis import names

NODES = 3  # of 2,000 pods each
CONTROL_PLANE = {"kube-controller-manager": ("--controllers=*,-replicaset",)}
"""Nobody may remove pods that no instance asks for."""
SLOTS = 20
LANES = 4
"""Kept connections of a caller."""
_AT_ONCE = 32
_UNAVAILABLE = 503
_AGAIN_SECONDS = 1.0
_PERSON = "caller"
_RBAC = "rbac.authorization.k8s.io"
_READY_SECONDS = 900.0
_TOKEN_SECONDS = 3600
_AUDIENCES = {"web": names.WEB_AUDIENCE, "gateway": names.GATEWAY_AUDIENCE}
_RUNS = """
select id::text, namespace, state, attempt, fence, extract(epoch from created_at)::float8 as created_at,
       extract(epoch from started_at)::float8 as started_at, extract(epoch from finished_at)::float8 as finished_at,
       (select count(*) from step s where s.run_id = run.id) as steps
from run where id = any($1::uuid[])
"""

_LEFT = """
select exists (select from run where state in (0, 1, 2) and namespace = coalesce($1::text, namespace))
"""

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Org:
    """An organisation: its namespace, its instances, and the token of one who may start runs."""

    namespace: str
    instances: tuple[str, ...]
    token: str

    def path(self, number: int) -> str:
        """Return where a run of one of its instances is asked for."""
        name = self.instances[number % len(self.instances)]
        return f"{names.API_PREFIX}/namespaces/{self.namespace}/instances/{name}/runs"


@dataclass(slots=True)
class Asked:
    """What callers were answered."""

    began: float
    runs: dict[str, float] = field(default_factory=dict)
    """Accepted runs and when each was asked for."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Why a request was refused for a moment; each was sent again, as the answer says."""
    ended: float = 0.0


@dataclass(slots=True, kw_only=True)
class Town:
    """The running installation."""

    orgs: Sequence[Org]
    crowd: Crowd
    made: Processes
    pids: dict[str, int]
    record: asyncpg.Connection
    web: int
    person: Client
    setup_seconds: float

    async def ask(self, jobs: Iterable[tuple[Org, int]], *, lanes: int = LANES) -> Asked:
        """Ask for a run for each (organisation, instance), all organisations at once."""
        by_org: dict[str, tuple[Org, deque[int]]] = {}
        for org, number in jobs:
            by_org.setdefault(org.namespace, (org, deque()))[1].append(number)
        open_lines = [
            (org, wanted, await HttpLine.open(self.web, org.token))
            for org, wanted in by_org.values()
            for _ in range(lanes)
        ]
        asked = Asked(began=time.time())
        await asyncio.gather(*(self._lane(org, wanted, line, asked) for org, wanted, line in open_lines))
        asked.ended = time.time()
        for _, _, line in open_lines:
            await line.close()
        return asked

    async def ask_steadily(self, org: Org, pause: float, stop: asyncio.Event, *, least: int) -> Asked:
        """Ask for a run every so often, at least so many times, until `stop` is set."""
        line, asked, count = await HttpLine.open(self.web, org.token), Asked(began=time.time()), 0
        while count < least or not stop.is_set():
            await self._one(org, count, line, asked)
            count += 1
            await asyncio.sleep(pause)
        asked.ended = time.time()
        await line.close()
        return asked

    async def _lane(self, org: Org, wanted: deque[int], line: HttpLine, asked: Asked) -> None:
        while wanted:
            await self._one(org, wanted.popleft(), line, asked)

    async def _one(self, org: Org, number: int, line: HttpLine, asked: Asked) -> None:
        """Ask until it is accepted; the key makes one run of all that."""
        body = json.dumps({"input": {"number": number, "text": "x" * 120}}).encode()
        key = f"Idempotency-Key: {uuid.uuid4()}\r\n".encode()
        at = time.time()
        while True:
            status, answer = await line.ask("POST", org.path(number), body, key)
            said = json.loads(answer)
            if status in {200, 201}:
                asked.runs[said["id"]] = at
                return
            assert status == _UNAVAILABLE, said
            asked.refusals[said["reason"]] += 1
            await asyncio.sleep(_AGAIN_SECONDS)

    async def all_over(self, org: Org | None = None, *, seconds: float = 300.0) -> None:
        """Wait until no run is left to do, of anybody or of one organisation."""
        whose = None if org is None else org.namespace

        async def none_left() -> bool:
            self.check()
            return not await self.record.fetchval(_LEFT, whose)

        await eventually(none_left, seconds)

    async def runs(self, asked: Asked) -> list[asyncpg.Record]:
        """Return how the record has the accepted runs."""
        return await self.record.fetch(_RUNS, list(asked.runs))

    def check(self) -> None:
        """Raise when a process or a simulated worker is gone."""
        assert not self.made.dead(), (self.made.dead(), self.made.log())
        self.crowd.check()


@asynccontextmanager
async def town(cluster: EmbeddedCluster, orgs: int, each: int) -> AsyncIterator[Town]:
    """Set everything up, which takes minutes, and leave nothing behind."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        made = stack.enter_context(processes())
        postgres = stack.enter_context(running_postgres(fsync="on", shared_buffers="256MB"))
        valkey = stack.enter_context(running_valkey("maxclients 15000"))
        broker = await stack.enter_async_context(broker_on(valkey))
        record = await stack.enter_async_context(_record(postgres.url))
        kubeconfig = str(cluster.kubeconfig)
        await install_crds(kubeconfig)
        person = await stack.enter_async_context(
            await connect(kubeconfig, connections=_AT_ONCE, timeout_seconds=60)
        )
        start = _Start(made, postgres.url, valkey, broker.bell_password_file, kubeconfig)
        pids = {"scheduler": start.scheduler(), "controller": start.controller()}
        wanted = [(f"org-{n:02}", tuple(f"agent-{m:03}" for m in range(each))) for n in range(orgs)]
        with step(f"{orgs * each} instances of {orgs} organisations applied"):
            await _settle(person, wanted)
        with step("the controller makes their children and publishes them, the scheduler makes their queues"):
            await _published(record, orgs * each, made)
        with step("a pod of each on a simulated node, and its token; the callers' tokens"):
            pods = [pod for namespace, _ in wanted for pod in await _pods(person, namespace, each)]
            callers = await _in_parallel(_token(person, namespace, _PERSON, "web") for namespace, _ in wanted)
        pids["web"], web = start.server("web")
        pids["gateway"], gateway = start.server("gateway")
        crowd = Crowd(gateway, slots=SLOTS)
        stack.push_async_callback(crowd.leave)
        with step("simulated workers seated by the gateway, each listening to its queue"):
            await crowd.join(pods)
        yield Town(
            orgs=[
                Org(namespace=namespace, instances=instances, token=token)
                for (namespace, instances), token in zip(wanted, callers, strict=True)
            ],
            crowd=crowd,
            made=made,
            pids=pids,
            record=record,
            web=web,
            person=person,
            setup_seconds=time.monotonic() - began,
        )


@asynccontextmanager
async def _record(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Make the schema; yield a connection to look at what becomes of it."""
    database = Database(lambda: url)
    await migrate(database)
    await database.close()
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


class _Start:
    """Starts the installation's processes."""

    def __init__(
        self, made: Processes, url: str, valkey: ValkeyServer, bell_password_file: Path, kubeconfig: str
    ) -> None:
        self._made = made
        self._admin = {"redis_password_file": valkey.password_file}
        self._bell = {"redis_user": "bell", "redis_password_file": bell_password_file}
        self._bell_file = bell_password_file
        key = valkey.folder / "bell-key"
        self._common = {
            "database_url": url, "redis_port": valkey.port, "bell_key_file": key, "fingerprint_key_file": key,
            "kubeconfig": kubeconfig, "namespace": "default",
        }  # fmt: skip

    def scheduler(self) -> int:
        port = free_port()
        return self._process(
            "scheduler", port, **self._admin, redis_bell_password_file=self._bell_file, metrics_port=port
        )

    def controller(self) -> int:
        port = free_port()
        return self._process(
            "controller",
            port,
            worker_image="example.test/worker:1",
            node_selector_fake=True,
            metrics_port=port,
        )

    def server(self, name: str) -> tuple[int, int]:
        """Return pid and port of web or gateway."""
        port, metrics = free_port(), free_port()
        pid = self._process(name, metrics, **self._bell, http_port=port, metrics_port=metrics)
        until(lambda: opens(port), self._made)
        return pid, port

    def _process(self, name: str, metrics: int, **settings: object) -> int:
        process = self._made.everesthood(name, **self._common, **settings)
        until(lambda: says(metrics, path="/readyz"), self._made)
        return process.pid


async def _settle(person: Client, wanted: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    """Make each organisation's namespace, who may start runs there, and its instances."""
    for namespace, _ in wanted:
        await person.create("/api/v1/namespaces", {"metadata": {"name": namespace}})
        await person.create(_path("v1", "serviceaccounts", namespace), {"metadata": {"name": _PERSON}})
        rule = {"apiGroups": [names.GROUP], "resources": ["agentinstances/run"], "verbs": ["create"]}
        await person.create(
            _path(f"{_RBAC}/v1", "roles", namespace), {"metadata": {"name": _PERSON}, "rules": [rule]}
        )
        binding = {
            "metadata": {"name": _PERSON},
            "subjects": [{"kind": "ServiceAccount", "name": _PERSON, "namespace": namespace}],
            "roleRef": {"kind": "Role", "name": _PERSON, "apiGroup": _RBAC},
        }
        await person.create(_path(f"{_RBAC}/v1", "rolebindings", namespace), binding)
        await apply(person, template(namespace=namespace))
    await _in_parallel(
        apply(person, instance(name, namespace=namespace, workers={"replicas": 0}))
        for namespace, names_ in wanted
        for name in names_
    )


async def _published(record: asyncpg.Connection, number: int, made: Processes) -> None:
    """Wait until the record has all instances, each with a revision that can run and a queue."""
    said = time.monotonic()

    async def all_there() -> bool:
        nonlocal said
        assert not made.dead(), (made.dead(), made.log())
        found = await record.fetchval(
            "select count(*) from instance where current_revision is not null and queue_ready"
        )
        if time.monotonic() - said > 30:
            said = time.monotonic()
            say(f"  {found} of {number} can run")
        return bool(found == number)

    await eventually(all_there, _READY_SECONDS, pause=1.0)


async def _pods(person: Client, namespace: str, each: int) -> list[Pod]:
    """Make the pod that each instance's Deployment would have; return what the kubelet mounts into each."""

    async def all_there() -> list[dict[str, Any]] | None:
        found = (await person.get(_path("apps/v1", "replicasets", namespace)))["items"]
        return found if len(found) == each else None

    owners = await eventually(all_there, _READY_SECONDS, pause=1.0)
    return await _in_parallel(_pod(person, namespace, owner, n) for n, owner in enumerate(owners))


async def _pod(person: Client, namespace: str, replica_set: dict[str, Any], number: int) -> Pod:
    meta, template = replica_set["metadata"], replica_set["spec"]["template"]
    owner = {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": meta["name"], "uid": meta["uid"],
        "controller": True,
    }  # fmt: skip
    account = template["spec"]["serviceAccountName"]
    body = {
        "metadata": {
            "name": f"{meta['name']}-0", "labels": template["metadata"]["labels"], "ownerReferences": [owner],
        },
        "spec": {
            "serviceAccountName": account, "automountServiceAccountToken": False,
            "nodeName": f"fake-{number % NODES}", "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "worker", "image": "example.test/worker:1"}],
        },
    }  # fmt: skip
    made = (await person.create(_path("v1", "pods", namespace), body))["metadata"]
    reference = {"kind": "Pod", "apiVersion": "v1", "name": made["name"], "uid": made["uid"]}
    token = await _token(person, namespace, account, "gateway", pod=reference)
    return Pod(token=token, revision=made["labels"][names.LABEL_REVISION])


async def not_ready(person: Client, namespace: str) -> list[str]:
    """Return the instances of an organisation that are not Ready."""
    found = await person.get(object_path(names.API_VERSION, "agentinstances", namespace=namespace))
    return [
        one["metadata"]["name"] for one in found["items"] if condition(one, "Ready").get("status") != "True"
    ]


async def _token(
    person: Client, namespace: str, account: str, audience: str, *, pod: dict[str, Any] | None = None
) -> str:
    """Return a token as the kubelet, or a caller, asks the API server for it."""
    spec: dict[str, Any] = {"audiences": [_AUDIENCES[audience]], "expirationSeconds": _TOKEN_SECONDS}
    if pod is not None:
        spec["boundObjectRef"] = pod
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    path = f"{_path('v1', 'serviceaccounts', namespace, account)}/token"
    return str((await person.request("POST", path, body=body))["status"]["token"])


async def _in_parallel(jobs: Iterable[Awaitable[Made]]) -> list[Made]:
    """Return all results in order, having awaited some at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(job: Awaitable[Made]) -> Made:
        async with gate:
            return await job

    return await asyncio.gather(*(one(job) for job in jobs))


def _path(api_version: str, plural: str, namespace: str, name: str = "") -> str:
    return object_path(api_version, plural, namespace=namespace, name=name)
