"""What each feature costs a run, in µs: the same with it and without, taking turns.

What `web` does: processor time of real web processes, each with one feature left out, and of PostgreSQL meanwhile,
so that other load hardly counts. What the record does: its stores called directly, 50 callers at a time, so a
figure there is time of the whole machine. PostgreSQL syncs each commit.
"""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import uvloop
from tests.bench.engine.load import send
from tests.bench.engine.ours import NEVER_REACHED, Installation, installation
from tests.bench.engine.without import FEATURES
from tests.support.postgres import free_port, running_postgres
from tests.support.record import INSTANCE, TEMPLATE, Harness, finish, postgres_harness, seat, step, wish
from tests.support.system import RUNS_PATH, family, opens, until

from everesthood.adapters.postgres import Database, migrate
from everesthood.apis.wire import Finish, LogLine, WorkRequest
from everesthood.domain.limits import UNLIMITED, Limits
from everesthood.domain.runs import RunRequest

REQUESTS = 150
"""Runs that a web process accepts in its turn: short turns, since the machine's speed drifts within seconds."""
RUNS = 500
"""Runs that the stores accept and drain in their turn."""
ROUNDS = 25
WHOLE = "nothing"
CALLERS = 50
BATCH = 100
LABELS = {"team": "support", "customer": "c-4711"}

Measured = Callable[[Harness], Awaitable[float]]
Used = tuple[float, float]
"""By a web process and by PostgreSQL, for a run, in µs."""
Turn = tuple[Used, Used]


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


async def draining(record: Harness, *, steps: int = 0, lines: int = 0) -> float:
    """Return the µs that claiming and handing in take for a run."""
    done = 0
    ends: tuple[Finish, ...] = ()
    logs: tuple[LogLine, ...] = ()
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
    await _limited(record, NEVER_REACHED)
    await accepting(record)
    into.setdefault("claim and hand in, limits", []).append(await draining(record))
    await _limited(record, UNLIMITED)


async def _limited(record: Harness, limits: Limits) -> None:
    """Give the instance and its template these limits."""
    await record.registry.publish_template(replace(TEMPLATE, limits=limits))
    await record.registry.publish_instance(replace(INSTANCE, limits=limits))


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


async def webs(rounds: int) -> dict[str, list[Turn]]:
    """Return, by what a web process leaves out, what was used with it and then without it, each round."""
    found: dict[str, list[Turn]] = {feature: [] for feature in FEATURES if feature != WHOLE}
    async with installation(workers=0) as mine:
        started = {feature: await _start(mine, feature) for feature in FEATURES}
        for place in started.values():
            await _used(mine, *place)
        for _ in range(rounds):
            for feature, turns in found.items():
                turns.append((await _used(mine, *started[WHOLE]), await _used(mine, *started[feature])))
    return found


async def _start(mine: Installation, feature: str) -> tuple[int, int]:
    """Return process and port of a web process without a feature, set up as the installation's own."""
    pid = mine.system.processes["web"].pid
    told = _told(pid)
    settings = dict(one.split("=", 1) for one in told if one.startswith("EVERESTHOOD_"))
    port = free_port()
    settings |= {"EVERESTHOOD_HTTP_PORT": f"{port}", "EVERESTHOOD_METRICS_PORT": f"{free_port()}"}
    process = mine.made.start("tests.bench.engine.without", feature, **settings)
    await asyncio.to_thread(until, lambda: opens(port), mine.made)
    return process.pid, port


def _told(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


async def _used(mine: Installation, pid: int, port: int) -> Used:
    """Return what accepting a run took of a web process and of PostgreSQL."""
    assert mine.postgres.process is not None
    postgres = mine.postgres.process.pid
    before = _nanoseconds([pid]), _nanoseconds(family(postgres))
    await send(port, RUNS_PATH, REQUESTS, 1)
    after = _nanoseconds([pid]), _nanoseconds(family(postgres))
    web, database = ((new - old) / REQUESTS / 1000 for new, old in zip(after, before, strict=True))
    return web, database


def _nanoseconds(pids: list[int]) -> int:
    """Return the processor time of all threads of processes, finer than `stat` has it."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def _difference(with_it: list[float], without: list[float]) -> str:
    """Return the median of the rounds' differences, and the middle half of them."""
    differences = sorted(one - other for one, other in zip(with_it, without, strict=True))
    return _middle(differences)


def _middle(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:>7.0f}  {f'{low:.0f} to {high:.0f}':<15}"


def _print_webs(found: Mapping[str, list[Turn]]) -> None:
    """Print what accepting takes, and how much less without each feature."""
    whole = [with_it for turns in found.values() for with_it, _ in turns]
    print(f"{'µs of processor time a run':<40}{'median':>7}  middle half")
    print(f"{'accept, by one HTTP request: web':<40}{_middle([web for web, _ in whole])}")
    for feature, turns in found.items():
        pairs = [(one[0], other[0]) for one, other in turns]
        print(f"{f'  of it {_SAID[feature]}':<40}{_difference(*map(list, zip(*pairs, strict=True)))}")
    print(f"{'accept, by one HTTP request: PostgreSQL':<40}{_middle([database for _, database in whole])}")
    pairs = [(one[1], other[1]) for one, other in found["audit"]]
    print(f"{'  of it the audit line':<40}{_difference(*map(list, zip(*pairs, strict=True)))}")


_SAID: Mapping[str, str] = {
    "authentication": "authentication, remembered",
    "permission": "permission, remembered",
    "schema": "the input's schema",
    "audit": "the audit line (0: it is SQL)",
    "line": "the log line of the request",
    "metrics": "metrics of the request",
    "bell": "the bell",
}


def measure(rounds: int = ROUNDS) -> int:
    """Print the tables; they have no target of their own."""
    rounds = max(rounds, 2)
    _print_webs(uvloop.run(webs(rounds)))
    with running_postgres(fsync="on", shared_buffers="256MB") as server:
        found = uvloop.run(stores(server.url, rounds))
    print(f"{'µs a run, the stores alone':<40}{'median':>7}  middle half")
    for what in ("accept", "claim and hand in"):
        print(f"{what:<40}{_middle(found[what])}")
    for what, with_it, without in (
        ("+ an Idempotency-Key", "accept, Idempotency-Key", "accept"),
        ("+ 2 labels", "accept, 2 labels", "accept"),
        ("+ ttlSeconds", "accept, ttlSeconds", "accept"),
        ("+ 4 limits", "claim and hand in, limits", "claim and hand in"),
        ("+ a checkpoint", "hand in, 1 checkpoint", "claim and hand in"),
        ("+ a log line", "hand in, 1 log line", "claim and hand in"),
    ):
        print(f"{what:<40}{_difference(found[with_it], found[without])}")
    return 0
