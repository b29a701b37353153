"""Two processes at the same row at the same moment: the order in which they commit decides, never luck."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.support.record import (
    INSTANCE,
    LEASE_SECONDS,
    Harness,
    database_url,
    databases,
    finish,
    hold,
    postgres_harness,
    seat,
    wish,
)

from everesthood.adapters.postgres.accepts import columns
from everesthood.adapters.postgres.pool import sql
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import HeartbeatRequest, WorkRequest
from everesthood.domain.runs import RunState

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Harness]:
    async with postgres_harness(database_url) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


async def _blocked(record: Harness, task: asyncio.Task) -> None:
    """Return once somebody waits for a lock; fail if the task ends before."""
    async with asyncio.timeout(5), record.database.acquire() as connection:
        while not await connection.fetchval("select count(*) from pg_locks where not granted"):
            assert not task.done()
            await asyncio.sleep(0.01)


async def test_a_removal_waits_for_an_accept_under_way(record: Harness):
    """A run that is being committed while its instance goes is found and cancelled."""
    request = wish()
    async with record.database.transaction() as connection:
        await connection.fetch(sql("accept"), *columns([request]))
        removal = asyncio.create_task(record.registry.remove_instance("uid-a"))
        await _blocked(record, removal)
    await removal

    run = await record.run(request.id)
    assert (run.state, run.reason) == (RunState.CANCELLED, Reason.INSTANCE_DELETED)


async def test_a_hand_in_that_meets_a_cancellation_obeys_it(record: Harness):
    """A run that is handed back while somebody cancels it is cancelled, with that person's name."""
    accepted = await record.accept()
    (held,) = await record.claim()
    async with record.database.transaction() as connection:
        await connection.fetch(sql("lock_run"), accepted.run, "acme")
        release = WorkRequest(finished=(finish(held, "released"),))
        hand_in = asyncio.create_task(record.work.work(seat(), release))
        await _blocked(record, hand_in)
        await connection.execute(
            sql("cancel"), accepted.run, 1, Reason.CANCELLED, "Cancelled by bob.", "bob", "r"
        )
    reply = await hand_in

    run = await record.run(accepted.run)
    assert reply.lost == ()
    assert (run.state, run.message) == (RunState.CANCELLED, "Cancelled by bob.")


async def test_a_heartbeat_that_meets_a_rescue_is_told(record: Harness):
    """A worker whose run is being taken away learns it from the same heartbeat."""
    await record.accept()
    (held,) = await record.claim()
    await record.age(LEASE_SECONDS + 1)
    async with record.database.transaction() as connection:
        (overdue,) = await connection.fetch(sql("overdue"), 10)
        beat = asyncio.create_task(record.work.heartbeat(seat(), HeartbeatRequest(held=(hold(held),))))
        await _blocked(record, beat)
        await connection.execute(sql("settle"), [overdue["id"]], [0], [Reason.LEASE_LOST], [""])

    assert (await beat).lost == (held.run,)


async def test_calls_that_hold_the_same_runs_never_deadlock(record: Harness):
    """Whatever the order in which workers name their runs, nobody waits for ever or fails."""
    await asyncio.gather(*(record.accept() for _ in range(60)))
    held = await record.claim(60)
    forward = HeartbeatRequest(held=tuple(hold(one) for one in held))
    backward = HeartbeatRequest(held=forward.held[::-1])

    beats = await asyncio.gather(
        *(record.work.heartbeat(seat(), order) for order in (forward, backward) * 10),
        *(record.hand_in(*(finish(one, "released") for one in part)) for part in (held[20::-1], held[40:])),
    )

    assert all(not beat.cancel for beat in beats[:20])
