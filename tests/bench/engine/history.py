"""What a million finished runs cost who claims: the same claims with few and with a million in the record.

The finished runs are of the same instance. Stores are called directly, so that nothing else is in the figure;
PostgreSQL syncs each commit.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvloop
from tests.support.postgres import Databases, running_postgres
from tests.support.record import INSTANCE, Harness, finish, postgres_harness, seat, step, wish

from everesthood.apis.wire import WorkRequest

RUNS = 1_000_000
CLAIMS = 200
BATCH = 20
TARGET = 1.2
_FILL = """
insert into run (id, namespace, instance, instance_uid, state, attempt, fence, revision, template, reason, input,
                 output, max_attempts, max_run_seconds, requested_by, request_id, created_at, due_at, started_at, finished_at)
select (lpad(to_hex((extract(epoch from t.at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3)
        || '8' || substr(md5(n::text), 4, 15))::uuid,
       'acme', 'greeter', 'uid-a', 3, 1, 1, 'r1', 'greeting', 'Succeeded', '{"who":"World"}', '{"text":"done"}',
       3, 3600, 'alice', 'r', t.at, t.at, t.at, t.at
from generate_series($1::int, $2::int - 1) n
cross join lateral (select now() - ($3 - n) * interval '1 second' as at) t
"""


async def claims(record: Harness) -> list[float]:
    """Return the seconds of each call that hands in a batch and claims the next."""
    await asyncio.gather(*(record.runs.accept(wish()) for _ in range(BATCH * (CLAIMS + 1))))
    seconds, held = [], ()
    for _ in range(CLAIMS + 1):
        ends = tuple(finish(run, steps=(step("only"),)) for run in held)
        began = time.perf_counter()
        held = (await record.work.work(seat(), WorkRequest(want=BATCH, finished=ends))).assignments
        seconds.append(time.perf_counter() - began)
        assert len(held) == BATCH
    ends = tuple(finish(run) for run in held)
    await record.work.work(seat(), WorkRequest(finished=ends))
    return seconds[1:]


async def fill(record: Harness, runs: int) -> None:
    """Write so many finished runs."""
    assert record.database is not None
    async with record.database.acquire() as connection:
        await connection.execute("set statement_timeout = 0")
        for start in range(0, runs, 50_000):
            await connection.execute(_FILL, start, min(start + 50_000, runs), runs, timeout=None)
        await connection.execute("vacuum analyze run", timeout=None)
        await connection.execute("checkpoint", timeout=None)


@asynccontextmanager
async def opened(databases: Databases) -> AsyncIterator[Harness]:
    """Yield a record of its own with one instance, warm."""
    async with postgres_harness(await databases.fresh()) as record:
        await record.registry.publish_instance(INSTANCE)
        await claims(record)
        yield record


async def run(databases: Databases, runs: int, rounds: int) -> int:
    """Print both, and the ratio; return whether the target was missed."""
    before: list[float] = []
    after: list[float] = []
    async with opened(databases) as few, opened(databases) as many:
        began = time.perf_counter()
        await fill(many, runs)
        filled = time.perf_counter() - began
        await claims(many)
        for _ in range(rounds):
            before += await claims(few)
            after += await claims(many)
    ratio = statistics.median(after) / statistics.median(before)
    print(
        f"hand in {BATCH} and claim {BATCH}, {rounds} x {CLAIMS} times in turns; "
        f"{runs:,} finished runs took {filled:.0f} s to write"
    )
    for what, seconds in (("few finished runs", before), (f"{runs:,} finished runs", after)):
        cuts = statistics.quantiles(seconds, n=100)
        print(f"  {what:<24} p50 {cuts[49] * 1000:.2f} ms, p99 {cuts[98] * 1000:.2f} ms")
    print(f"  ratio of the medians {ratio:.2f}; target ≤ {TARGET}")
    return int(ratio > TARGET)


def measure(rounds: int = 5) -> int:
    """Take turns between two databases of one server: the machine's speed drifts more than the two differ."""
    with running_postgres(fsync="on", shared_buffers="512MB", max_wal_size="4GB") as server:
        return uvloop.run(run(Databases(server.url), RUNS, rounds))
