"""The processes of an installation, each of its own, over a real PostgreSQL and Valkey: started, watched, ended.

`start_system` has a stand-in for the API server, which answers when an answer is no longer remembered.
"""

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from tests.support.plain_gateway import TOKEN
from tests.support.postgres import free_port
from tests.support.reviews import FakeApiServer
from tests.support.servers import Asked, Reply, Server
from tests.support.valkey import ValkeyServer
from tests.support.web import EVERYTHING, REVISION, TEMPLATE, UIDS, publish

from everesthood.adapters.postgres import Database, Listener, PostgresRegistry, migrate
from everesthood.apis import names
from everesthood.usecases.ports.cluster import ApiError

ROOT = Path(__file__).parents[2]
UID_OF_IT = UIDS["acme", "summarizer"]
RUNS_PATH = f"{names.API_PREFIX}/namespaces/acme/instances/summarizer/runs"
PODS = "/api/v1/namespaces/acme/pods"
APPS = "/apis/apps/v1/namespaces/acme"
TICKS = os.sysconf("SC_CLK_TCK")
_BYTECODE = TemporaryDirectory(prefix="bytecode-")
"""Compiled once for all that is started, as an image's is."""


class Processes:
    """Starts processes and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        surroundings = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        with (self.folder / f"{len(self._running)}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env={**surroundings, "PYTHONPYCACHEPREFIX": _BYTECODE.name, **environment},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self._running.append(process)
        return process

    def dead(self) -> list[object]:
        """Return the commands of those that ended by themselves."""
        return [process.args for process in self._running if process.poll() is not None]

    def everesthood(self, name: str, **settings: object) -> subprocess.Popen[bytes]:
        environment = {f"EVERESTHOOD_{key.upper()}": str(value) for key, value in settings.items()}
        return self.start(f"everesthood.entrypoints.{name}.main", **environment)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End one as a crash does."""
        process.kill()
        process.wait()
        self._running.remove(process)

    def end(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(30)
        self._running.clear()

    def log(self) -> str:
        """Return the end of what each process said."""
        return "\n".join(file.read_text()[-2000:] for file in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    with TemporaryDirectory(prefix="system-") as folder:
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


def opens(port: int) -> bool:
    """Return whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


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


def resident(pid: int) -> float:
    """Return the MiB that a process has now."""
    return _mebibytes(f"/proc/{pid}/smaps_rollup", "Rss")


def most_resident(pid: int) -> float:
    """Return the most MiB that a process ever had."""
    return _mebibytes(f"/proc/{pid}/status", "VmHWM")


def _mebibytes(file: str, name: str) -> float:
    found = re.search(rf"^{name}:\s+(\d+)", Path(file).read_text(), re.MULTILINE)
    assert found is not None
    return int(found.group(1)) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process and those it has waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS


def family(pid: int) -> list[int]:
    """Return a process and its children, as a database server has them."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


async def prepare(url: str, template: Mapping[str, object] = TEMPLATE, **published: Any) -> None:
    """Make the schema and publish instances of that template; `published` is what else is said of them."""
    database = Database(lambda: url)
    listener = Listener(database)
    await migrate(database)
    await publish(PostgresRegistry(database, listener), template, **published)
    await listener.close()
    await database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A running installation of one instance."""

    web: int
    """Port of the REST API."""
    gateway: int
    processes: Mapping[str, subprocess.Popen[bytes]]
    start_worker: Callable[[], subprocess.Popen[bytes]]
    """Starts one more worker and waits until it hears its queue."""


def start_system(
    made: Processes,
    database_url: str,
    valkey: ValkeyServer,
    bell_password_file: str,
    cluster: int,
    *,
    workers: int = 1,
    **settings: object,
) -> System:
    """Start all but the controller; return once the workers hear their queue. `settings` are the gateway's."""
    web, gateway, ports = free_port(), free_port(), [free_port() for _ in range(3)]
    key, token, config = (made.folder / name for name in ("key", "token", "kubeconfig"))
    key.write_bytes((valkey.folder / "bell-key").read_bytes())
    token.write_text(TOKEN)
    config.write_bytes(kubeconfig(cluster))
    common = {"database_url": database_url, "redis_port": valkey.port, "bell_key_file": key}
    scheduler = made.everesthood(
        "scheduler", **common, redis_password_file=valkey.password_file,
        redis_bell_password_file=bell_password_file, metrics_port=ports[2],
    )  # fmt: skip
    common |= {
        "redis_user": "bell", "redis_password_file": bell_password_file, "fingerprint_key_file": key,
        "kubeconfig": config,
    }  # fmt: skip
    at_web = made.everesthood("web", **common, http_port=web, metrics_port=ports[0])
    at_gateway = made.everesthood("gateway", **common, **settings, http_port=gateway, metrics_port=ports[1])
    for port in (web, gateway):
        until(lambda port=port: opens(port), made)

    def start_worker() -> subprocess.Popen[bytes]:
        port = free_port()
        process = made.everesthood(
            "worker", gateway_url=f"http://127.0.0.1:{gateway}", gateway_token_file=token, revision=REVISION,
            identity="w-1", metrics_port=port,
        )  # fmt: skip
        until(lambda: hears(port), made)
        return process

    known = {"web": at_web, "gateway": at_gateway, "scheduler": scheduler}
    known |= {"worker" if n == 0 else f"worker {n + 1}": start_worker() for n in range(workers)}
    return System(web=web, gateway=gateway, processes=known, start_worker=start_worker)
