"""PostgreSQL keeps large values beside the row: who does not ask for them does not read them."""

import random
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.support.record import (
    INSTANCE,
    LEASE_SECONDS,
    database_url,
    databases,
    finish,
    postgres_harness,
    step,
)

from everesthood.domain.runs import RunState
from everesthood.domain.steps import MAX_OUTPUT_BYTES
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.integration
__all__ = ["database_url", "databases"]

NOISE = random.Random(1).randbytes(MAX_OUTPUT_BYTES // 2 - 1).hex()
"""Does not compress away."""
BESIDE = """
select toast_blks_read + toast_blks_hit from pg_statio_user_tables where relname = $1
"""


@pytest.fixture
async def record(database_url: str):
    """Yield a record that has one connection, so that its figures are those of what was done."""
    async with postgres_harness(database_url, size=1) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


@asynccontextmanager
async def reading(record, table):
    """Yield a list that holds, after the block, how many blocks beside the table were read in it."""
    blocks: list[int] = []

    async def read() -> int:
        async with record.database.acquire() as connection:
            await connection.execute("select pg_stat_force_next_flush()")
            await connection.execute("select pg_stat_clear_snapshot()")
            return int(await connection.fetchval(BESIDE, table))

    before = await read()
    yield blocks
    blocks.append(await read() - before)


async def test_a_list_reads_no_large_value(record):
    """A page of runs whose outputs are 1 MiB each costs what one of small runs costs."""
    accepted = [await record.accept() for _ in range(5)]
    for held in await record.claim():
        await record.hand_in(finish(held, output=msgspec.Raw(msgspec.json.encode(NOISE))))

    async with reading(record, "run") as listed:
        page = await record.runs.list(RunFilter(namespace="acme"))
    async with reading(record, "run") as shown:
        run = await record.run(accepted[0].run)

    assert [found.state for found in page.runs] == [RunState.SUCCEEDED] * 5
    assert len(run.output) == MAX_OUTPUT_BYTES
    assert listed == [0]
    assert shown[0] > 50


async def test_a_claim_reads_no_large_checkpoint(record):
    """A run with large outputs behind it is claimed again without one of them being read."""
    await record.accept()
    (held,) = await record.claim()
    for n in range(5):
        await record.checkpoint(held, step(f"s{n}", output=NOISE))
    await record.age(LEASE_SECONDS + 1)
    await record.clock.rescue()

    async with reading(record, "step") as claimed:
        (again,) = await record.claim()

    assert [found.is_held_back for found in again.steps] == [True] * 5
    assert claimed == [0]
