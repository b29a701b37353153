"""How soon an idle system begins: from the request for a run to its first step, and from a worker's start
to its first claim.

Web, gateway, scheduler and worker are processes of their own over PostgreSQL with fsync and a real Valkey; only the
API server is a stand-in, asked when an answer is no longer remembered. The peer is plain Celery on the same
Valkey, taking turns with us: what a task waits between `delay()` and its start, with nothing kept.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import msgspec
from celery import Celery
from tests.support import plain_celery
from tests.support.broker import broker_on
from tests.support.plain_gateway import REVISION as PLAIN_REVISION
from tests.support.plain_gateway import TOKEN, UID, plain_gateway
from tests.support.postgres import free_port, running_postgres
from tests.support.reviews import FakeApiServer
from tests.support.servers import Asked, Reply, Server, serving
from tests.support.valkey import ADMIN_PASSWORD, ValkeyServer, running_valkey
from tests.support.web import EVERYTHING, REVISION, UIDS, publish

from everesthood.adapters.postgres import Database, Listener, PostgresRegistry, migrate
from everesthood.apis import names
from everesthood.usecases.ports.cluster import ApiError

ROOT = Path(__file__).parents[2]
PAUSE_SECONDS = 0.1
WARM_UP = 20
STARTS = 5
REST_SECONDS = 3.0
UID_OF_IT = UIDS["acme", "summarizer"]
RUNS_PATH = f"{names.API_PREFIX}/namespaces/acme/instances/summarizer/runs"
PODS = "/api/v1/namespaces/acme/pods"
APPS = "/apis/apps/v1/namespaces/acme"


class Processes:
    """Starts processes whose bytecode is compiled, as an image's is, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        surroundings = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**surroundings, "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"), **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        return process

    def everesthood(self, name: str, **settings: object) -> subprocess.Popen[bytes]:
        environment = {f"EVERESTHOOD_{key.upper()}": str(value) for key, value in settings.items()}
        return self.start(f"everesthood.entrypoints.{name}.main", **environment)

    def end(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(30)
        self._running.clear()

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    with TemporaryDirectory(prefix="latency-") as folder:
        made = Processes(Path(folder))
        try:
            yield made
        finally:
            made.end()


def until(holds: Callable[[], bool], made: Processes, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(made.log())
        time.sleep(0.01)


def says(port: int, text: str = "", path: str = "/metrics") -> bool:
    """Return whether a process answers 200 there, with such a text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == 200 and text in answer.read().decode()
    except OSError:
        return False
    finally:
        connection.close()


def hears(port: int) -> bool:
    return says(port, "everesthood_worker_queue_connected 1.0")


def api_server() -> FakeApiServer:
    """Return one that knows Ada and the worker's pod."""
    fake = FakeApiServer()
    fake.know("ada-token", "ada", names.WEB_AUDIENCE)
    fake.grant("ada", "acme", *EVERYTHING)
    fake.know(
        TOKEN,
        "system:serviceaccount:acme:agent-summarizer",
        names.GATEWAY_AUDIENCE,
        extra={
            "authentication.kubernetes.io/pod-name": ["w-1"],
            "authentication.kubernetes.io/pod-uid": ["pod"],
        },
    )

    def put(path: str, uid: str, kind: str, owner: str, api_version: str = "apps/v1", **labels: str) -> None:
        reference = {"controller": True, "kind": kind, "apiVersion": api_version, "name": "w", "uid": owner}
        name = path.rpartition("/")[2]
        fake.objects[path] = {
            "metadata": {
                "name": name, "namespace": "acme", "uid": uid, "labels": labels, "ownerReferences": [reference],
            }
        }  # fmt: skip

    put(f"{PODS}/w-1", "pod", "ReplicaSet", "set")
    put(f"{APPS}/replicasets/w", "set", "Deployment", "deployment")
    put(
        f"{APPS}/deployments/w", "deployment", "AgentInstance", UID_OF_IT, names.API_VERSION,
        **{names.LABEL_REVISION: REVISION},
    )  # fmt: skip
    return fake


def speak_http(fake: FakeApiServer, server: Server) -> None:
    """Let the stand-in answer on a port."""

    def answer(asked: Asked) -> Reply:
        body = json.loads(asked.body) if asked.body else None
        try:
            found = asyncio.run(fake.request(asked.method, asked.path, body=body))
        except ApiError as error:
            return Reply(status=error.status, body=b"{}")
        return Reply(body=json.dumps(found).encode(), headers={"Content-Type": "application/json"})

    reviews = ("authentication.k8s.io/v1/tokenreviews", "authorization.k8s.io/v1/subjectaccessreviews")
    for path in (*fake.objects, *(f"/apis/{review}" for review in reviews)):
        server.replies[path] = answer


def kubeconfig(port: int) -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
    )


async def prepare(url: str) -> None:
    """Make the schema and publish the instance."""
    database = Database(lambda: url)
    listener = Listener(database)
    await migrate(database)
    await publish(PostgresRegistry(database, listener))
    await listener.close()
    await database.close()


async def request_latencies(
    made: Processes, count: int
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """Return seconds from request to each station, and from `delay()` to the peer's task."""
    with running_postgres(fsync="on") as postgres, running_valkey() as valkey, serving() as cluster:
        speak_http(api_server(), cluster)
        await prepare(postgres.url)
        async with broker_on(valkey) as broker:
            web = start_system(made, postgres.url, valkey, str(broker.bell_password_file), cluster.port)
            peer = start_peer(made, valkey)
            sent = await asyncio.to_thread(send, web, peer, count + WARM_UP)
            await asyncio.sleep(1)
        ours = await passed_after(postgres.url, sent)
        with valkey.admin() as client:
            theirs = [float(wait) for wait in client.lrange(plain_celery.WAITS, 0, -1)]
        assert len(ours) == len(theirs) == count + WARM_UP, (len(ours), len(theirs), made.log())
        made.end()
    return ours[WARM_UP:], theirs[WARM_UP:]


def start_system(
    made: Processes, database_url: str, valkey: ValkeyServer, bell_password_file: str, cluster: int
) -> int:
    """Start all but the controller; return the web's port once the worker hears its queue."""
    web, gateway, ports = free_port(), free_port(), [free_port() for _ in range(4)]
    key, token, config = (made.folder / name for name in ("key", "token", "kubeconfig"))
    key.write_bytes((valkey.folder / "bell-key").read_bytes())
    token.write_text(TOKEN)
    config.write_bytes(kubeconfig(cluster))
    common = {"database_url": database_url, "redis_port": valkey.port, "bell_key_file": key}
    made.everesthood(
        "scheduler", **common, redis_password_file=valkey.password_file,
        redis_bell_password_file=bell_password_file, metrics_port=ports[3],
    )  # fmt: skip
    common |= {
        "redis_user": "bell", "redis_password_file": bell_password_file, "fingerprint_key_file": key,
        "kubeconfig": config,
    }  # fmt: skip
    made.everesthood("web", **common, http_port=web, metrics_port=ports[0])
    made.everesthood("gateway", **common, http_port=gateway, metrics_port=ports[1])
    for port in ports[:2]:
        until(lambda port=port: says(port, path="/readyz"), made)
    made.everesthood(
        "worker", gateway_url=f"http://127.0.0.1:{gateway}", gateway_token_file=token, revision=REVISION,
        identity="w-1", metrics_port=ports[2],
    )  # fmt: skip
    until(lambda: hears(ports[2]), made)
    return web


def start_peer(made: Processes, valkey: ValkeyServer) -> Celery:
    """Start a plain Celery worker with all its defaults but the number of processes, and wait for it."""
    broker = f"redis://default:{ADMIN_PASSWORD}@127.0.0.1:{valkey.port}/0"
    made.start(
        "celery", "-A", "tests.support.plain_celery", "worker", "--concurrency", "1",
        **{plain_celery.BROKER: broker},
    )  # fmt: skip
    app = plain_celery.app
    app.conf.broker_url = broker
    with valkey.admin() as client:
        app.tasks["note"].delay(time.time())
        until(lambda: bool(client.delete(plain_celery.WAITS)), made)
    return app


def send(port: int, peer: Celery, count: int) -> dict[str, float]:
    """Ask for runs one by one on a kept connection, the peer's task between; return when each was sent."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Authorization": "Bearer ada-token", "Content-Type": "application/json"}
    sent = {}
    for n in range(count):
        body = json.dumps({"input": {"text": f"hello {n}"}})
        began = time.time()
        connection.request("POST", RUNS_PATH, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 201, text
        sent[json.loads(text)["id"]] = began
        time.sleep(PAUSE_SECONDS / 2)
        peer.tasks["note"].delay(time.time())
        time.sleep(PAUSE_SECONDS / 2)
    connection.close()
    return sent


async def passed_after(url: str, sent: dict[str, float]) -> list[tuple[float, float, float]]:
    """Return how many seconds after each request it was at the record, was claimed, and its step started."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch(
        "select r.id::text, extract(epoch from r.created_at)::float8,"
        " extract(epoch from r.started_at)::float8, extract(epoch from s.started_at)::float8"
        " from run r join step s on s.run_id = r.id order by r.id"
    )
    await connection.close()
    return [tuple(at - sent[run] for at in stations) for run, *stations in rows]


async def worker_starts(made: Processes, count: int) -> tuple[list[float], list[float]]:
    """Return seconds from a worker process's start to its first claim, and its MiB at rest."""
    claims, sizes = [], []
    token = made.folder / "token"
    token.write_text(TOKEN)
    with running_valkey() as valkey:
        async with broker_on(valkey) as broker:
            for n in range(count + 1):
                with plain_gateway(broker.lease(UID, PLAIN_REVISION)) as (gateway, url):
                    port, began = free_port(), time.time()
                    process = made.everesthood(
                        "worker", gateway_url=url, gateway_token_file=token, revision=PLAIN_REVISION,
                        identity=f"w-{n}", metrics_port=port,
                    )  # fmt: skip
                    await asyncio.to_thread(until, lambda port=port: hears(port), made)
                    await asyncio.sleep(REST_SECONDS)
                    if n:  # the first one compiles
                        claims.append(gateway.claims_at[0] - began)
                        sizes.append(resident(process.pid))
                    await asyncio.to_thread(made.end)
    return claims, sizes


def resident(pid: int) -> float:
    found = re.search(r"^Rss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def row(what: str, seconds: Sequence[float]) -> str:
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{what:<44}" + "".join(f"{1000 * s:>9.1f}" for s in (cuts[49], cuts[98], max(seconds)))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.latency", description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--starts", type=int, default=STARTS)
    chosen = parser.parse_args()
    with processes() as made:
        if chosen.starts:
            claims, sizes = asyncio.run(worker_starts(made, chosen.starts))
            print(f"a worker's start, median of {chosen.starts}")
            print(f"  process start → first claim (target ≤ 1.5 s)   {statistics.median(claims):6.2f} s")
            print(f"  memory at rest (target ≤ 70 MiB)               {statistics.median(sizes):6.1f} MiB")
        if chosen.runs:
            stations, theirs = asyncio.run(request_latencies(made, chosen.runs))
            recorded, claimed, ours = zip(*stations, strict=True)
            print(f"{chosen.runs} requests, one each {PAUSE_SECONDS * 1000:.0f} ms".ljust(44), end="")
            print("".join(f"{head:>9}" for head in ("p50 ms", "p99 ms", "max ms")))
            print(row("request → first step starts (p50 ≤ 15 ms)", ours))
            print(row("  until the record begins to accept it", recorded))
            print(row("  until a worker claims it", claimed))
            print(row("plain Celery: delay() → task starts", theirs))
            print(f"ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")


if __name__ == "__main__":
    main()
