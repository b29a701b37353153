"""How soon an idle system begins: from the request for a run to its first step, and from a worker's start
to its first claim.

Web, gateway, scheduler and worker are processes of their own over PostgreSQL with fsync and a real Valkey; only the
API server is a stand-in, asked when an answer is no longer remembered. The peer is plain Celery on the same
Valkey, taking turns with us: what a task waits between `delay()` and its start, with nothing kept.
"""

import asyncio
import http.client
import json
import statistics
import time
from collections.abc import Sequence

import asyncpg
from celery import Celery
from tests.support import plain_celery
from tests.support.broker import broker_on
from tests.support.plain_gateway import REVISION as PLAIN_REVISION
from tests.support.plain_gateway import TOKEN, UID, plain_gateway
from tests.support.postgres import free_port, running_postgres
from tests.support.servers import serving
from tests.support.system import (
    RUNS_PATH,
    Processes,
    api_server,
    hears,
    prepare,
    processes,
    resident,
    speak_http,
    start_system,
    until,
)
from tests.support.valkey import ADMIN_PASSWORD, ValkeyServer, running_valkey

PAUSE_SECONDS = 0.1
WARM_UP = 20
STARTS = 5
REST_SECONDS = 3.0
LATEST_CLAIM = 1.5
MOST_MIB = 70.0
TARGET_P50 = 0.008
TARGET_P99 = 0.025


async def request_latencies(
    made: Processes, count: int
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """Return seconds from request to each station, and from `delay()` to the peer's task."""
    with running_postgres(fsync="on") as postgres, running_valkey() as valkey, serving() as cluster:
        speak_http(api_server(), cluster)
        await prepare(postgres.url)
        async with broker_on(valkey) as broker:
            password_file = str(broker.bell_password_file)
            system = start_system(made, postgres.url, valkey, password_file, cluster.port)
            peer = start_peer(made, valkey)
            sent = await asyncio.to_thread(send, system.web, peer, count + WARM_UP)
            await asyncio.sleep(1)
        ours = await passed_after(postgres.url, sent)
        with valkey.admin() as client:
            theirs = [float(wait) for wait in client.lrange(plain_celery.WAITS, 0, -1)]
        assert len(ours) == len(theirs) == count + WARM_UP, (len(ours), len(theirs), made.log())
        made.end()
    return ours[WARM_UP:], theirs[WARM_UP:]


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


def cuts_of(seconds: Sequence[float]) -> list[float]:
    return statistics.quantiles(seconds, n=100, method="inclusive")


def row(what: str, seconds: Sequence[float]) -> str:
    cuts = cuts_of(seconds)
    return f"{what:<44}" + "".join(f"{1000 * s:>9.1f}" for s in (cuts[49], cuts[98], max(seconds)))


def measure(rounds: int = STARTS) -> int:
    """Print both tables, of as many starts and hundreds of requests; return the number of missed targets."""
    with processes() as made:
        claims, sizes = asyncio.run(worker_starts(made, rounds))
        stations, theirs = asyncio.run(request_latencies(made, 100 * rounds))
    start, memory = statistics.median(claims), statistics.median(sizes)
    print(f"a worker's start, median of {rounds}")
    print(f"  process start → first claim (target ≤ 1.5 s)   {start:6.2f} s{missed(start > LATEST_CLAIM)}")
    print(f"  memory at rest (target ≤ 70 MiB)               {memory:6.1f} MiB{missed(memory > MOST_MIB)}")
    recorded, claimed, ours = zip(*stations, strict=True)
    print(f"{100 * rounds} requests, one each {PAUSE_SECONDS * 1000:.0f} ms".ljust(44), end="")
    print("".join(f"{head:>9}" for head in ("p50 ms", "p99 ms", "max ms")))
    middle, late = cuts_of(ours)[49] > TARGET_P50, cuts_of(ours)[98] > TARGET_P99
    print(row("request → first step starts (targets 8, 25)", ours) + missed(middle or late))
    print(row("  until the record begins to accept it", recorded))
    print(row("  until a worker claims it", claimed))
    print(row("plain Celery: delay() → task starts", theirs))
    print(f"ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")
    return sum((start > LATEST_CLAIM, memory > MOST_MIB, middle, late))


def missed(so: bool) -> str:
    return "  MISSED" if so else ""


if __name__ == "__main__":
    measure()
