"""What the scheduler may rely on: rescue, bells for forgotten work, broker users, duties."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
from tests.support.record import INSTANCE, LEASE_SECONDS, Harness, finish, step

from everesthood.apis.reasons import Reason
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import DueBell, QueueOwner

pytestmark = pytest.mark.contract


async def test_a_silent_workers_run_is_due_again(published: Harness):
    """When a worker dies, its run goes on with the next attempt."""
    await published.accept()
    (held,) = await published.claim()
    await published.checkpoint(held, step("a"))
    await published.age(LEASE_SECONDS + 1)

    counts = await published.clock.rescue()

    run = await published.run(held.run)
    assert dict(counts) == {"queued": 1}
    assert (run.state, run.reason, run.attempt) == (RunState.QUEUED, Reason.LEASE_LOST, 1)
    assert [again.attempt for again in await published.claim()] == [2]
    assert (await published.run(held.run)).reason is None


async def test_a_lease_that_holds_is_left_alone(published: Harness):
    """Nobody takes a run from a worker that is in time."""
    await published.accept()
    await published.claim()
    await published.age(LEASE_SECONDS - 1)

    assert dict(await published.clock.rescue()) == {}


async def test_a_late_hand_in_before_the_rescue_counts(published: Harness):
    """As long as nobody took the run away, its worker may hand it in."""
    await published.accept()
    (held,) = await published.claim()
    await published.age(LEASE_SECONDS + 1)

    reply = await published.hand_in(finish(held))
    counts = await published.clock.rescue()

    assert (reply.lost, dict(counts)) == ((), {})
    assert (await published.run(held.run)).state is RunState.SUCCEEDED


async def test_a_run_that_kills_its_workers_is_dead_in_the_end(published: Harness):
    """After as many attempts as the template allows, the run is over."""
    accepted = await published.accept(max_attempts=2)
    for _ in range(2):
        assert len(await published.claim()) == 1
        await published.age(LEASE_SECONDS + 1)
        counts = await published.clock.rescue()

    run = await published.run(accepted.run)
    assert dict(counts) == {"dead": 1}
    assert (run.state, run.reason) == (RunState.DEAD, Reason.TOO_MANY_ATTEMPTS)
    assert "2 attempts" in run.message
    assert run.finished_at is not None


async def test_a_cancelled_run_of_a_silent_worker_is_cancelled(published: Harness):
    """A cancellation outlives the worker that should have obeyed it."""
    accepted = await published.accept()
    await published.claim()
    await published.runs.cancel("acme", accepted.run, "bob", "r")
    await published.age(LEASE_SECONDS + 1)

    counts = await published.clock.rescue()

    run = await published.run(accepted.run)
    assert dict(counts) == {"cancelled": 1}
    assert (run.state, run.reason, run.message) == (
        RunState.CANCELLED,
        Reason.CANCELLED,
        "Cancelled by bob.",
    )


async def test_a_run_that_is_out_of_time_expires(published: Harness):
    """The deadline counts from the first start, whether the run is held or waits for its next attempt."""
    held_run = (await published.accept(max_run_seconds=10)).run
    released_run = (await published.accept(max_run_seconds=10)).run
    never_started = (await published.accept(max_run_seconds=10)).run
    _, second = await published.claim(2)
    await published.hand_in(finish(second, "released"))
    await published.age(LEASE_SECONDS + 11)

    counts = await published.clock.rescue()

    runs = [await published.run(run) for run in (held_run, released_run)]
    assert dict(counts) == {"expired": 2}
    assert {(run.state, run.reason) for run in runs} == {(RunState.EXPIRED, Reason.RUN_TIMED_OUT)}
    assert (await published.run(never_started)).state is RunState.QUEUED


async def test_forgotten_work_is_rung_for(published: Harness):
    """A queue with due work that nobody claims is named once it has waited long enough."""
    await published.accept()
    await published.accept()
    young = await published.clock.due_bells(2)
    await published.age(3)

    assert (young, await published.clock.due_bells(2)) == ([], [DueBell(instance_uid="uid-a", revision="r1")])

    await published.claim()
    assert await published.clock.due_bells(2) == []


async def test_bells_go_to_the_revision_that_may_claim(published: Harness):
    """Started runs ring for their own revision, new ones for the current."""
    await published.accept()
    (held,) = await published.claim()
    await published.hand_in(finish(held, "released"))
    await published.accept()
    await published.registry.publish_instance(replace(INSTANCE, generation=2, current_revision="r2"))
    await published.age(3)

    bells = await published.clock.due_bells(2)

    assert sorted(bell.revision for bell in bells) == ["r1", "r2"]


async def test_nobody_is_rung_for_what_may_not_start(published: Harness):
    """New runs of a suspended or deleted instance ring nobody; started ones of a suspended one do."""
    await published.accept()
    (held,) = await published.claim()
    await published.accept()
    await published.registry.publish_instance(replace(INSTANCE, generation=2, suspended=True))
    await published.age(3)
    suspended = await published.clock.due_bells(2)
    await published.hand_in(finish(held, "released"))
    await published.age(3)
    pinned = await published.clock.due_bells(2)
    await published.registry.remove_instance("uid-a")

    assert (suspended, pinned) == ([], [DueBell(instance_uid="uid-a", revision="r1")])
    assert await published.clock.due_bells(2) == []


async def test_broker_users_are_wanted_marked_and_forgotten(published: Harness):
    """An instance asks for its broker user, knows when it is there, and is forgotten when both are gone."""
    asked = await published.clock.queue_owners()
    await published.clock.mark_queues(["uid-a", "unknown"], [])
    made = await published.clock.queue_owners()
    await published.clock.mark_queues([], ["uid-a"])  # not deleted: it stays
    await published.registry.remove_instance("uid-a")
    unwanted = await published.clock.queue_owners()
    await published.clock.mark_queues([], ["uid-a"])

    assert asked == [QueueOwner(instance_uid="uid-a", wanted=True, ready=False)]
    assert made == [QueueOwner(instance_uid="uid-a", wanted=True, ready=True)]
    assert unwanted == [QueueOwner(instance_uid="uid-a", wanted=False, ready=True)]
    assert await published.clock.queue_owners() == []
    assert not (await published.registry.queue_state("uid-a")).ready


async def test_one_process_leads_a_duty_at_a_time(published: Harness):
    """A second process waits until the first gives the duty back; another duty is another lock."""
    async with aclosing(published.clock.lead("rescue")) as first:
        assert await anext(first)
        second = published.clock.lead("rescue")
        waiting = asyncio.ensure_future(anext(second))
        async with aclosing(published.clock.lead("bells")) as other:
            assert await anext(other)
        assert not waiting.done()

    async with asyncio.timeout(10):
        assert await waiting
    await second.aclose()


async def test_the_scheduler_hears_of_new_instances(record: Harness):
    """Publishing and removing an instance wakes who makes broker users."""
    changes = record.clock.queue_changes()
    for change in (
        lambda: record.registry.publish_instance(INSTANCE),
        lambda: record.registry.remove_instance("uid-a"),
    ):
        waiting = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0)
        await change()
        async with asyncio.timeout(5):
            await waiting
    await changes.aclose()
