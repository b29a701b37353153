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
    waits,
    wish,
)

from everesthood.adapters.postgres.accepts import columns
from everesthood.adapters.postgres.pool import sql
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import HeartbeatRequest, WorkRequest
from everesthood.domain.approvals import Decision
from everesthood.domain.errors import Conflict
from everesthood.domain.runs import Dedupe, RunId, RunState
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.ports.record import RunFilter

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration
ADA = Actor(name="ada")


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
        await connection.fetch(sql("accept"), *columns([request]), [None])
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
            sql("cancel"), accepted.run, 1, Reason.CANCELLED, "Cancelled by bob.", "bob", "r", 10.0
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


async def test_a_stop_waits_for_an_accept_under_way(record: Harness):
    """When a stop has answered, nothing is accepted any more that nobody knew of."""
    request = wish()
    async with record.database.transaction() as connection:
        await connection.fetch(sql("accept"), *columns([request]), [None])
        stopping = asyncio.create_task(record.control.stop("acme", ADA, message="", cancels=True))
        await _blocked(record, stopping)
    await stopping

    assert (await record.run(request.id)).state is RunState.QUEUED
    with pytest.raises(Conflict):
        await record.accept()


@pytest.mark.parametrize("dedupe", [None, Dedupe(key="k")])
async def test_an_accept_that_meets_a_stop_is_refused(record: Harness, dedupe: Dedupe | None):
    """A request that came before the stop was committed sees it all the same."""
    async with record.database.transaction() as connection:
        await connection.fetch(sql("lock_instances"), "acme")
        await connection.execute(sql("mark_stopped"), "acme", True)
        accepting = asyncio.create_task(record.accept(dedupe=dedupe))
        await _blocked(record, accepting)

    with pytest.raises(Conflict) as refused:
        await accepting

    assert refused.value.reason is Reason.ORGANIZATION_STOPPED
    assert await record.listed(RunFilter(namespace="acme")) == []


async def test_an_instance_published_beside_a_stop_is_stopped(record: Harness):
    """A stop waits for what is being published, for a new instance is no way around an incident."""
    async with record.database.transaction() as connection:
        await connection.execute(
            "insert into instance (uid, namespace, name, generation, template, service_account,"
            " current_revision, config) values ('uid-n', 'acme', 'newer', 1, 't', 's', 'r1', '{}')"
        )
        stopping = asyncio.create_task(record.control.stop("acme", ADA, message="", cancels=True))
        await _blocked(record, stopping)
    await stopping

    with pytest.raises(Conflict):
        await record.accept(instance="newer", instance_uid="uid-n")


async def test_of_two_answers_at_once_one_counts(record: Harness):
    """The second finds what the first committed, and is told who was first."""
    await record.accept()
    (held,) = await record.claim()
    await record.hand_in(waits(held, "ask"))
    async with record.database.transaction() as connection:
        await connection.fetch(sql("lock_run"), held.run, "acme")
        answers = [
            asyncio.create_task(record.control.decide(decision(held.run, approved=approved, by=who)))
            for approved, who in ((True, "ann"), (False, "bob"))
        ]
        await _blocked(record, answers[0])
    first, second = await asyncio.gather(*answers, return_exceptions=True)

    refused = first if isinstance(first, Conflict) else second
    assert isinstance(refused, Conflict)
    assert refused.reason is Reason.ALREADY_DECIDED
    assert [isinstance(end, Conflict) for end in (first, second)].count(True) == 1
    (line,) = [line for line in await record.audited() if "/steps/ask" in line[2]]
    state = (await record.run(held.run)).state
    assert state is (RunState.QUEUED if line[1] == "run.approve" else RunState.DEAD)


async def test_an_answer_that_meets_a_hand_in_is_not_lost(record: Harness):
    """The worker says that the run waits while the answer is being committed: the run is due again."""
    await record.accept()
    (held,) = await record.claim()
    await record.hand_in(waits(held, "a", "b"))
    await record.control.decide(decision(held.run, "a"))
    (again,) = await record.claim()
    async with record.database.transaction() as connection:
        await connection.fetch(sql("lock_run"), held.run, "acme")
        answering = asyncio.create_task(record.control.decide(decision(held.run, "b")))
        await _blocked(record, answering)
        handing = asyncio.create_task(record.hand_in(waits(again, "b")))
        while await connection.fetchval("select count(*) from pg_locks where not granted") < 2:
            await asyncio.sleep(0.01)
    await asyncio.gather(answering, handing)

    (third,) = await record.claim()
    assert [one.name for one in third.steps] == ["a", "b"]


def decision(run: str, step: str = "ask", *, approved: bool = True, by: str = "bob") -> Decision:
    return Decision(namespace="acme", run=RunId(run), step=step, approved=approved, actor=by)
