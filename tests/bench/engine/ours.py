"""Our own installation for the benchmarks: every process its own, all of it as in production.

Web authenticates each call and asks for its permission, remembering answers as long as it always does (the API
server behind it is a stand-in); the input is checked against the template's schema; each run has its audit line,
its checkpoint and its output; the instance and its template have a rate limit and a concurrency limit each;
PostgreSQL syncs each commit.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg
from tests.support.broker import broker_on
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.servers import serving
from tests.support.system import (
    ROOT,
    RUNS_PATH,
    Processes,
    System,
    api_server,
    cpu_seconds,
    family,
    prepare,
    processes,
    speak_http,
    start_system,
)
from tests.support.valkey import running_valkey

from everesthood.domain.limits import Limits, Rate

SLOTS = 100
SCHEMA = {
    "type": "object",
    "required": ["org", "agent", "input"],
    "properties": {
        "org": {"type": "string"},
        "agent": {"type": "string"},
        "input": {"type": "object", "required": ["ticket"], "properties": {"ticket": {"type": "integer"}}},
    },
}
NO_OP: Mapping[str, object] = {
    "displayName": "Triage",
    "inputSchema": SCHEMA,
    "steps": [{"name": "decide", "transform": {"value": "input.agent"}}],
    "queue": {"maxAttempts": 3, "maxRunSeconds": 600},
    "worker": {"slots": SLOTS},
}


NEVER_REACHED: Final = Limits(
    concurrency=10_000, rate=Rate(runs=1_000_000, period_seconds=1, burst=1_000_000)
)
PUBLISHED: Mapping[str, object] = {"limits": NEVER_REACHED, "template_limits": NEVER_REACHED}
"""What is said of the instance besides: limits that are counted and asked, and never keep a run back."""


def code(entrypoint: str) -> Mapping[str, object]:
    """Return a template with one step of the author's own code."""
    return {
        "displayName": "Code",
        "steps": [{"name": "act", "code": {"entrypoint": f"tests.bench.engine.agents:{entrypoint}"}}],
        "queue": {"maxAttempts": 3, "maxRunSeconds": 600},
        "worker": {"slots": SLOTS},
    }


@dataclass(slots=True, kw_only=True)
class Installation:
    """A running installation and a look into its record."""

    system: System
    made: Processes
    postgres: PostgresServer
    record: asyncpg.Connection

    def load(self, number: int, per_call: int = 1, *, port: int = 0) -> subprocess.Popen[str]:
        """Start asking for so many runs, by a process of its own; of another web process where a port is given."""
        path = RUNS_PATH if per_call == 1 else f"{RUNS_PATH}/bulk"
        command = [sys.executable, "-m", "tests.bench.engine.load", str(port or self.system.web), path]
        return subprocess.Popen(
            [*command, str(number), str(per_call)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    async def sent(self, load: subprocess.Popen[str]) -> tuple[float, float]:
        """Return when the first run was asked for and when the last was accepted."""
        said, _ = await asyncio.to_thread(load.communicate, timeout=300)
        if load.returncode:
            raise RuntimeError(self.made.log())
        began, ended = json.loads(said)
        return began, ended

    async def done(self, number: int) -> float:
        """Return when so many runs had succeeded."""
        deadline = time.monotonic() + 300
        while await self.record.fetchval("select count(*) from run where state = 3") < number:
            if time.monotonic() > deadline or self.made.dead():
                raise RuntimeError(self.made.log())
            await asyncio.sleep(0.05)
        return time.time()

    def cpu(self) -> dict[str, float]:
        """Return the processor time that each process has used so far."""
        assert self.postgres.process is not None
        used = {name: cpu_seconds(process.pid) for name, process in self.system.processes.items()}
        used["postgres"] = sum(map(_cpu_or_none, family(self.postgres.process.pid)))
        return used


def _cpu_or_none(pid: int) -> float:
    try:
        return cpu_seconds(pid)
    except FileNotFoundError:
        return 0.0


@asynccontextmanager
async def installation(
    template: Mapping[str, object] = NO_OP, *, workers: int = 1, **settings: object
) -> AsyncIterator[Installation]:
    """Start everything anew; leave nothing behind."""
    with (
        processes() as made,
        running_postgres(fsync="on", shared_buffers="256MB") as postgres,
        running_valkey() as valkey,
        serving() as cluster,
    ):
        speak_http(api_server(), cluster)
        await prepare(postgres.url, template, **PUBLISHED)
        async with broker_on(valkey) as broker:
            system = await asyncio.to_thread(
                start_system, made, postgres.url, valkey, str(broker.bell_password_file), cluster.port,
                workers=workers, **settings,
            )  # fmt: skip
            record = await asyncpg.connect(postgres.url)
            try:
                yield Installation(system=system, made=made, postgres=postgres, record=record)
            finally:
                await record.close()
                await asyncio.to_thread(made.end)


def per_run(before: Mapping[str, float], after: Mapping[str, float], runs: int) -> str:
    """Return the µs of processor time that each process used for a run."""
    return ", ".join(f"{name} {1e6 * (after[name] - before[name]) / runs:.0f}" for name in after)


def spread(values: Iterable[float]) -> str:
    """Return the least and the most."""
    found = sorted(values)
    return f"{found[0]:,.0f}-{found[-1]:,.0f}"
