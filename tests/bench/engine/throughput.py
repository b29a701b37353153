"""Durable no-op runs a second, ours beside the peers, taking turns: from the first request to the last run done.

One producer, one consumer, the servers; all on the same cores, about 200 bytes a job, retries armed, enqueued
while draining. Ours: one HTTP request a run on 50 connections. Peers: 50 adds under way at once, but Celery, which
blocks for each, and DBOS, which gets 16 threads.
"""

import asyncio
import itertools
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from tests.bench.engine.installs import PEERS, Installed, install, script_of_node
from tests.bench.engine.ours import installation, per_run, spread
from tests.support.postgres import running_postgres
from tests.support.valkey import ADMIN_PASSWORD, running_valkey

ROUNDS = 3
OURS = "Everesthood"
OURS_BULK = "Everesthood, 100 a call"
BULK_TARGET = 1.3
_DATABASES = itertools.count()

Url = Callable[[], str]
"""Returns the address of a server, of a new database where jobs of another run would be in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Jobs a second: accepted, and durably done."""

    accepted: float
    done: float
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What the peers' jobs are kept in."""

    postgres: str
    always: str
    everysec: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One row of the table."""

    name: str
    keeps: str
    """What a power cut loses."""
    measure: Callable[[], Figures]
    target: float | None = None
    """How many times its figure ours should be."""


@dataclass(slots=True)
class Row:
    """What the rounds came to."""

    figures: list[Figures] = field(default_factory=list)

    @property
    def done(self) -> float:
        """Return the median."""
        return statistics.median(figure.done for figure in self.figures)

    @property
    def accepted(self) -> float:
        """Return the median."""
        return statistics.median(figure.accepted for figure in self.figures)


def contenders(installed: Installed, servers: Servers) -> list[Contender]:
    """Return all rows; fewer jobs where they take long."""
    node = [*installed.node, str(script_of_node("bullmq_peer.mjs"))]

    def peer(command: list[str], url: Url, number: int, *more: str) -> Callable[[], Figures]:
        return lambda: _peer(installed, [*command, "--url", url(), "--number", str(number), *more])

    def python(name: str, url: Url, number: int, *more: str) -> Callable[[], Figures]:
        return peer([*installed.python, str(PEERS / f"{name}_peer.py")], url, number, *more)

    def always() -> str:
        return servers.always

    def everysec() -> str:
        return servers.everysec

    def fresh() -> str:
        return _database(servers.postgres)

    nothing, two_seconds = "nothing", "up to 2 s"
    threads, prefork = (
        ("--pool", "threads", "--concurrency", "20"),
        ("--pool", "prefork", "--concurrency", "2"),
    )
    return [
        Contender(name=OURS, keeps=nothing, measure=lambda: _ours(20_000, 1)),
        Contender(name=OURS_BULK, keeps=nothing, measure=lambda: _ours(40_000, 100)),
        Contender(name="BullMQ on Redis, appendfsync always", keeps=nothing, target=1.0,
                  measure=peer(node, always, 20_000)),
        Contender(name="BullMQ the same, 100 a call", keeps=nothing,
                  measure=peer(node, always, 20_000, "--bulk")),
        Contender(name="BullMQ on Redis, everysec", keeps=two_seconds, measure=peer(node, everysec, 20_000)),
        Contender(name="BullMQ on PostgreSQL", keeps=nothing, target=10.0,
                  measure=peer(node, fresh, 3_000)),
        Contender(name="Celery threads, Redis everysec", keeps=two_seconds, target=6.0,
                  measure=python("celery", everysec, 4_000, *threads)),
        Contender(name="Celery prefork, Redis everysec", keeps=two_seconds, target=6.0,
                  measure=python("celery", everysec, 4_000, *prefork)),
        Contender(name="Oban for Python", keeps=nothing, target=4.0, measure=python("oban", fresh, 6_000)),
        Contender(name="Oban for Python, 100 a call", keeps=nothing, measure=python("oban", fresh, 6_000, "--bulk")),
        Contender(name="DBOS", keeps=nothing, target=8.0, measure=python("dbos", fresh, 3_000)),
        Contender(name="Procrastinate", keeps=nothing, target=12.0, measure=python("procrastinate", fresh, 2_000)),
    ]  # fmt: skip


def _ours(number: int, per_call: int) -> Figures:
    return asyncio.run(_measured(number, per_call))


async def _measured(number: int, per_call: int) -> Figures:
    async with installation() as mine:
        warm = mine.load(1000)
        await mine.sent(warm)
        await mine.done(1000)
        before = mine.cpu()
        load = mine.load(number, per_call)
        done = asyncio.create_task(mine.done(1000 + number))
        began, sent = await mine.sent(load)
        seconds = await done - began
        return Figures(
            accepted=number / (sent - began),
            done=number / seconds,
            note=per_run(before, mine.cpu(), number),
        )


def _peer(installed: Installed, command: list[str]) -> Figures:
    """Run a peer's script and read its line."""
    environment = {**os.environ, **installed.environment}
    ended = subprocess.run(
        command, cwd=PEERS, env=environment, check=False, capture_output=True, text=True, timeout=300
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{ended.stdout[-1000:]}\n{ended.stderr[-2000:]}")
    found = json.loads(ended.stdout.strip().splitlines()[-1])
    return Figures(accepted=found["accepted"], done=found["done"])


def _database(url: str) -> str:
    """Return the address of a new, empty database."""
    name = f"peer_{next(_DATABASES)}"

    async def create() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(f"create database {name}")
        await connection.close()

    asyncio.run(create())
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@contextmanager
def _servers() -> Iterator[Servers]:
    def url(port: int) -> str:
        return f"redis://:{ADMIN_PASSWORD}@127.0.0.1:{port}/0"

    with (
        running_postgres(fsync="on", shared_buffers="256MB") as postgres,
        running_valkey("appendonly yes", "appendfsync always") as always,
        running_valkey("appendonly yes", "appendfsync everysec") as everysec,
    ):
        yield Servers(postgres=postgres.url, always=url(always.port), everysec=url(everysec.port))


def measure(rounds: int = ROUNDS) -> int:
    """Print the table; return how many targets were missed."""
    installed = install()
    with _servers() as servers:
        all_of_them = contenders(installed, servers)
        rows = {contender.name: Row() for contender in all_of_them}
        for number in range(rounds):
            for contender in all_of_them:
                try:
                    figures = contender.measure()
                except (RuntimeError, subprocess.SubprocessError) as error:
                    print(f"  round {number + 1}: {contender.name} came to nothing: {error}", flush=True)
                    continue
                rows[contender.name].figures.append(figures)
                said = f"; µs a run: {figures.note}" if figures.note else ""
                print(f"  round {number + 1}: {contender.name} {figures.done:,.0f}/s{said}", flush=True)
    return _table(all_of_them, rows)


def _table(contenders: list[Contender], rows: dict[str, Row]) -> int:
    ours, missed = rows[OURS].done, 0
    head = f"{'':<38}{'a power cut loses':<19}{'accepted/s':>11}{'done/s':>9}  {'spread':<15}{'ours ÷ it':>9}  target"
    print(f"medians of {len(rows[OURS].figures)} rounds, no-op jobs, enqueued while draining\n{head}")
    for contender in contenders:
        row = rows[contender.name]
        if not row.figures:
            missed += 1
            print(f"{contender.name:<38}not measured")
            continue
        ratio, target = ours / row.done, ""
        if contender.target is not None:
            met = ratio >= contender.target
            missed += not met
            target = f"≥ {contender.target:g}{'' if met else '  MISSED'}"
        figures = f"{row.accepted:>11,.0f}{row.done:>9,.0f}  {spread(f.done for f in row.figures):<15}"
        print(f"{contender.name:<38}{contender.keeps:<19}{figures}{ratio:>9.2f}  {target}")
    for name in (OURS, OURS_BULK):
        for figures in rows[name].figures[-1:]:
            print(f"{name}, µs of processor time a run: {figures.note}")
    if rows[OURS_BULK].figures:
        gain = rows[OURS_BULK].done / ours
        missed += gain < BULK_TARGET
        mark = "" if gain >= BULK_TARGET else "  MISSED"
        print(f"100 runs a call are {gain:.2f} times as many as one a call; target ≥ {BULK_TARGET}{mark}")
    return missed
