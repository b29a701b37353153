"""What each feature costs a run, in µs: the same accepts and hand-ins with it and without, taking turns.

The stores are called directly, 50 callers at a time, PostgreSQL syncs each commit: so a figure is time of the
whole machine, the database's included. Authentication and the schema are timed alone, in this process.
"""

import asyncio
import re
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from unittest.mock import patch

import uvloop
from tests.bench.engine.load import PAYLOAD
from tests.bench.engine.ours import SCHEMA
from tests.support.postgres import running_postgres
from tests.support.record import INSTANCE, Harness, finish, postgres_harness, seat, step, wish
from tests.support.reviews import FakeApiServer
from tests.support.web import EVERYTHING

from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.adapters.languages import Languages
from everesthood.adapters.postgres import Database, migrate, pool
from everesthood.apis import names
from everesthood.apis.wire import LogLine, WorkRequest
from everesthood.domain.access import REQUIRED
from everesthood.domain.runs import RunRequest
from everesthood.usecases.authorize import Authorizer

RUNS = 4_000
ROUNDS = 7
CALLERS = 50
BATCH = 100
LABELS = {"team": "support", "customer": "c-4711"}

Measured = Callable[[Harness], Awaitable[float]]


async def accepting(record: Harness, **wishes: object) -> float:
    """Return the µs that an accept takes."""
    requests = iter([_wish(n, wishes) for n in range(RUNS)])

    async def caller() -> None:
        for request in requests:
            await record.runs.accept(request)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (time.perf_counter() - began) / RUNS * 1e6


def _wish(number: int, wishes: Mapping[str, object]) -> RunRequest:
    key = {"idempotency_key": f"{time.time_ns()}-{number}"} if "key" in wishes else {}
    return wish(**key, **{name: value for name, value in wishes.items() if name != "key"})


async def without_audit(record: Harness) -> float:
    """Return the same where the statement writes no audit line."""
    text = re.sub(r", noted as \(.*?\n\)(?=\n)", "", pool.sql("accept"), flags=re.DOTALL)
    assert "insert into audit" not in text
    with patch.object(pool, "sql", lambda name: text if name == "accept" else _SQL(name)):
        return await accepting(record)


_SQL = pool.sql


async def draining(record: Harness, *, steps: int = 0, lines: int = 0) -> float:
    """Return the µs that claiming and handing in take for a run."""
    done, ends, logs = 0, (), ()
    began = time.perf_counter()
    while done < RUNS:
        request = WorkRequest(want=BATCH, finished=ends, logs=logs)
        held = (await record.work.work(seat(), request)).assignments
        done += len(ends)
        ends = tuple(finish(run, steps=tuple(step(f"s{n}") for n in range(steps))) for run in held)
        logs = tuple(_line(run.run, run.fence) for run in held for _ in range(lines))
    return (time.perf_counter() - began) / RUNS * 1e6


def _line(run: str, fence: int) -> LogLine:
    return LogLine(run=run, fence=fence, at=time.time(), level="info", message="a line of a log", step="s0")


async def _round(record: Harness, into: dict[str, list[float]]) -> None:
    """Accept in each way, and drain what was accepted in each way."""
    accepts: Mapping[str, Measured] = {
        "accept": accepting,
        "accept, no audit line": without_audit,
        "accept, Idempotency-Key": lambda record: accepting(record, key=True),
        "accept, 2 labels": lambda record: accepting(record, labels=LABELS),
        "accept, ttlSeconds": lambda record: accepting(record, ttl_seconds=3600),
    }
    drains: Mapping[str, Measured] = {
        "claim and hand in": draining,
        "hand in, 1 checkpoint": lambda record: draining(record, steps=1),
        "hand in, 1 log line": lambda record: draining(record, lines=1),
    }
    for what, accept in accepts.items():
        into.setdefault(what, []).append(await accept(record))
        await draining(record)
    for what, drain in drains.items():
        await accepting(record)
        into.setdefault(what, []).append(await drain(record))


async def stores(url: str, rounds: int) -> dict[str, list[float]]:
    """Return the µs of each way in each round."""
    database = Database(lambda: url)
    await migrate(database)
    await database.close()
    found: dict[str, list[float]] = {}
    async with postgres_harness(url) as record:
        await record.registry.publish_instance(INSTANCE)
        await _round(record, {})
        for _ in range(rounds):
            await _round(record, found)
    return found


async def authentication() -> tuple[float, float]:
    """Return the µs of a call whose answers are remembered, and of one whose are not."""
    kubernetes = FakeApiServer()
    kubernetes.know("ada-token", "ada", names.WEB_AUDIENCE)
    kubernetes.grant("ada", "acme", *EVERYTHING)
    need = REQUIRED["createRun"]

    async def enter(door: Authorizer) -> None:
        identity = await door.authenticate("ada-token")
        await door.require(identity, need, "acme", "greeter")

    known = Authorizer(KubernetesIdentities(kubernetes), time.monotonic)
    await enter(known)
    remembered = await _each(lambda: enter(known))
    asked = await _each(lambda: enter(Authorizer(KubernetesIdentities(kubernetes), time.monotonic)))
    return remembered, asked


async def _each(call: Callable[[], Awaitable[None]], times: int = 20_000) -> float:
    began = time.perf_counter()
    for _ in range(times):
        await call()
    return (time.perf_counter() - began) / times * 1e6


def checking(times: int = 20_000) -> float:
    """Return the µs of checking an input against its schema."""
    languages = Languages()
    languages.check(SCHEMA, PAYLOAD)
    began = time.perf_counter()
    for _ in range(times):
        assert not languages.check(SCHEMA, PAYLOAD)
    return (time.perf_counter() - began) / times * 1e6


def _difference(found: Mapping[str, list[float]], with_it: str, without: str) -> str:
    """Return the median of the rounds' differences, and the middle half of them."""
    pairs = zip(found[with_it], found[without], strict=True)
    differences = sorted(one - other for one, other in pairs)
    low, middle, high = statistics.quantiles(differences, n=4)
    return f"{middle:>7.1f}   {low:.1f} to {high:.1f}"


def measure(rounds: int = ROUNDS) -> int:
    """Print the table; it has no target of its own."""
    with running_postgres(fsync="on", shared_buffers="256MB") as server:
        found = uvloop.run(stores(server.url, max(rounds, ROUNDS)))
    remembered, asked = uvloop.run(authentication())
    print(f"{'µs a run':<44}{'median':>7}   middle half")
    for what in ("accept", "claim and hand in"):
        low, middle, high = statistics.quantiles(found[what], n=4)
        print(f"{what:<44}{middle:>7.1f}   {low:.1f} to {high:.1f}")
    for what, with_it, without in (
        ("+ its audit line (in `accept`)", "accept", "accept, no audit line"),
        ("+ an Idempotency-Key", "accept, Idempotency-Key", "accept"),
        ("+ 2 labels", "accept, 2 labels", "accept"),
        ("+ ttlSeconds", "accept, ttlSeconds", "accept"),
        ("+ a checkpoint", "hand in, 1 checkpoint", "claim and hand in"),
        ("+ a log line", "hand in, 1 log line", "claim and hand in"),
    ):
        print(f"{what:<44}{_difference(found, with_it, without)}")
    print(f"{'authentication and permission, remembered':<44}{remembered:>7.1f}")
    print(f"{'  when asked anew, without the API server':<44}{asked:>7.1f}")
    print(f"{'input against its schema':<44}{checking():>7.1f}")
    return 0
