"""Any number of schedulers over one PostgreSQL: every time of every schedule gets exactly one run."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.support.record import INSTANCE, Harness, database_url, databases, postgres_harness

from everesthood.adapters.memory.bell import MemoryBell
from everesthood.adapters.postgres.pool import sql
from everesthood.adapters.postgres.schedules import fire
from everesthood.apis.reasons import Reason
from everesthood.domain.runs import RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.fire_schedules import fire_schedules
from everesthood.usecases.ports.record import RunFilter

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration
TICK = Schedule(
    name="tick",
    cron="* * * * *",
    time_zone="Etc/UTC",
    at=None,
    overlap=Overlap.ALLOW,
    missed=Missed.ALL,
    max_missed=10,
    jitter_seconds=0,
    suspended=False,
    input=b"{}",
)
INSTANCES = 60


@pytest.fixture
async def schedulers(database_url: str) -> AsyncIterator[list[Harness]]:
    """Yield two processes' views of one record in which many schedules are due."""
    second = datetime.now(UTC).second
    if second >= 45:
        await asyncio.sleep(60.1 - second)
    async with AsyncExitStack() as stack:
        both = [await stack.enter_async_context(postgres_harness(database_url)) for _ in range(2)]
        for n in range(INSTANCES):
            await both[0].registry.publish_instance(
                replace(INSTANCE, uid=f"uid-{n}", name=f"greeter-{n}", schedules=(TICK,))
            )
        yield both


async def fired(record: Harness) -> Counter:
    """Return how many runs each (instance, time) has."""
    async with record.database.acquire() as connection:
        found = await connection.fetch("select instance_uid, fire_at, count(*) n from run group by 1, 2")
    return Counter({(row["instance_uid"], row["fire_at"]): row["n"] for row in found})


async def test_two_schedulers_fire_each_time_once(schedulers: list[Harness]):
    """Both fire as fast as they can, in small batches, over several minutes' times."""
    started = 0
    for _ in range(4):
        await schedulers[0].age(60)
        while True:
            batches = await asyncio.gather(
                *(scheduler.clock.fire_schedules(7) for scheduler in schedulers for _ in range(3))
            )
            started += sum(batch.started for batch in batches)
            if not any(batch.schedules for batch in batches):
                break

    runs = await fired(schedulers[0])
    assert started == len(runs) == 4 * INSTANCES
    assert set(runs.values()) == {1}


async def test_a_scheduler_that_dies_in_the_middle_leaves_nothing_half_done(schedulers: list[Harness]):
    """A pass that is cut off loses no time and doubles none: the next one does what it did not commit."""
    await schedulers[0].age(180)
    database = schedulers[0].database
    assert (await schedulers[0].clock.fire_schedules(10)).started == 30

    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await fire(connection, 20)  # holds 20 schedules, their runs written but not committed
        meanwhile = await schedulers[1].clock.fire_schedules(1000)
        await transaction.rollback()
    cut = asyncio.create_task(schedulers[0].clock.fire_schedules(1000))
    await asyncio.sleep(0.005)
    cut.cancel()
    await asyncio.wait([cut])
    await schedulers[1].clock.fire_schedules(1000)

    runs = await fired(schedulers[1])
    assert meanwhile.schedules == INSTANCES - 10 - 20
    assert (len(runs), set(runs.values())) == (3 * INSTANCES, {1})
    async with schedulers[1].database.acquire() as connection:
        assert await connection.fetchval("select count(*) from audit where action = 'run.accept'") == len(
            runs
        )


async def test_a_time_that_has_its_run_gets_no_other(schedulers: list[Harness]):
    """Even if the schedule were set back, by a restored backup for instance, the run is there already."""
    await schedulers[0].age(60)
    await schedulers[0].clock.fire_schedules(1000)
    async with schedulers[0].database.acquire() as connection:
        await connection.execute(
            "update schedule set next_fire_at = last_fire_at, next_due_at = last_fire_at"
        )

    again = await schedulers[0].clock.fire_schedules(1000)

    assert (again.schedules, again.started) == (INSTANCES, 0)
    assert set((await fired(schedulers[0])).values()) == {1}


async def test_a_removal_waits_for_a_firing_under_way(schedulers: list[Harness]):
    """A run that is being fired while its instance goes is found and cancelled."""
    await schedulers[0].age(60)
    async with schedulers[0].database.transaction() as connection:
        await fire(connection, 1000)
        removal = asyncio.create_task(schedulers[1].registry.remove_instance("uid-3"))
        await asyncio.sleep(0.2)
        assert not removal.done()
    await removal

    page = (await schedulers[0].runs.list(RunFilter(namespace="acme", instance="greeter-3"))).runs
    assert [(run.state, run.reason) for run in page] == [(RunState.CANCELLED, Reason.INSTANCE_DELETED)]
    assert await schedulers[0].runs.schedules("uid-3") == []


async def test_two_schedulers_release_each_held_run_once(schedulers: list[Harness]):
    """With `overlap: Queue` the second run of a schedule never starts beside the first."""
    queued = replace(TICK, overlap=Overlap.QUEUE)
    for n in range(INSTANCES):
        await schedulers[0].registry.publish_instance(
            replace(INSTANCE, uid=f"uid-{n}", name=f"greeter-{n}", generation=2, schedules=(queued,))
        )
    await schedulers[0].age(180)
    await schedulers[0].clock.fire_schedules(1000)
    async with schedulers[0].database.acquire() as connection:
        await connection.execute("update run set state = 3 where due_at <= now()")

    released = await asyncio.gather(*(scheduler.clock.release_held(1000) for scheduler in schedulers))

    assert sum(map(len, released)) == INSTANCES
    async with schedulers[0].database.acquire() as connection:
        due = await connection.fetch(
            "select count(*) n from run where state = 0 and due_at <= now() group by instance_uid"
        )
    assert [row["n"] for row in due] == [1] * INSTANCES


async def test_a_pass_rings_for_what_it_fired(schedulers: list[Harness]):
    """After the commit every queue is rung, once; a pass with nothing to do does nothing."""
    bell = MemoryBell()
    await schedulers[0].age(60)

    done = await fire_schedules(clock=schedulers[0].clock, bell=bell)
    again = await fire_schedules(clock=schedulers[1].clock, bell=bell)

    assert done["runs_started"] == INSTANCES
    assert bell.waiting.total() == INSTANCES
    assert not any(again.values())


async def test_the_due_are_found_by_an_index(schedulers: list[Harness]):
    """The look that happens four times a second does not read schedules that are not due."""
    async with schedulers[0].database.acquire() as connection:
        await connection.execute("set enable_seqscan = off")
        plans = [
            "\n".join(row[0] for row in await connection.fetch("explain " + sql(name).replace("$1", "10")))
            for name in ("due_schedules", "release_held")
        ]
        await connection.execute("reset enable_seqscan")

    for index, plan in zip(("schedule_due", "run_held"), plans, strict=True):
        assert index in plan
        assert "run_schedule_open" in plan
        assert "Seq Scan" not in plan
