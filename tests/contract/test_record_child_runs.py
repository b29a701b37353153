"""What becomes of the runs that a run has other instances do, once nobody waits for them any more."""

from dataclasses import replace

import pytest
from tests.support.record import INSTANCE, LEASE_SECONDS, Harness, finish, hold, seat

from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Assignment, HeartbeatRequest
from everesthood.domain.runs import Run, RunState
from everesthood.usecases.ports.control import Actor

pytestmark = pytest.mark.contract
ADA = Actor(name="ada")
HELPER = replace(INSTANCE, uid="uid-h", name="helper", current_revision="r1")


async def family(record: Harness, **changes: object) -> tuple[Assignment, str]:
    """Return a run under way and the id of a run that it waits for."""
    await record.registry.publish_instance(HELPER)
    await record.accept(**changes)
    (parent,) = await record.claim(1)
    return parent, await child_of(record, parent.run)


async def child_of(record: Harness, parent: str) -> str:
    labels = {names.RUN_LABEL_PARENT: parent}
    return (await record.accept(instance_uid="uid-h", instance="helper", labels=labels)).run


async def began(record: Harness) -> Assignment:
    """Return the child as its worker holds it."""
    (held,) = await record.claim(1, uid="uid-h")
    return held


def told(run: Run) -> tuple[RunState, Reason | None, str]:
    return run.state, run.reason, run.message


async def test_a_cancelled_run_takes_those_with_it_that_it_waits_for(published: Harness):
    """One that waits ends at once, one that runs is told to; both name the parent, and the audit says so."""
    parent, running = await family(published)
    held = await began(published)
    queued = await child_of(published, parent.run)

    await published.runs.cancel("acme", parent.run, "bob", "r")

    heard = await published.work.heartbeat(seat(uid="uid-h"), HeartbeatRequest(held=(hold(held),)))
    await published.hand_in(finish(held, "cancelled"), uid="uid-h")
    said = f"Run {parent.run}, which waited for this one, was cancelled."
    for child in (running, queued):
        assert told(await published.run(child)) == (RunState.CANCELLED, Reason.PARENT_ENDED, said)
        assert (f"run/{parent.run}", "run.cancel", f"run/{child}") in await published.audited()
    assert heard.cancel == (running,)


async def test_a_run_that_is_over_stays_whatever_becomes_of_its_parent(published: Harness):
    """What is done is done; and no run is touched that waits for nobody's answer or another parent's."""
    parent, done = await family(published)
    await published.hand_in(finish(await began(published)), uid="uid-h")
    other, free = await published.accept(), await child_of(published, "another")

    await published.runs.cancel("acme", parent.run, "bob", "r")

    assert (await published.run(done)).state is RunState.SUCCEEDED
    assert {(await published.run(run)).state for run in (other.run, free)} == {RunState.QUEUED}


async def test_runs_below_a_cancelled_run_end_down_to_the_last(published: Harness):
    """Each names the one right above it."""
    parent, child = await family(published)
    grandchild = await child_of(published, child)

    await published.runs.cancel("acme", parent.run, "bob", "r")

    assert (await published.run(child)).message.startswith(f"Run {parent.run}")
    assert (await published.run(grandchild)).message.startswith(f"Run {child}")


async def test_a_cancellation_is_passed_on_again_when_it_is_repeated(published: Harness):
    """A child that a first cancellation missed is found by the next, and by the end of the parent."""
    parent, _ = await family(published)
    await published.runs.cancel("acme", parent.run, "bob", "r")
    missed = await child_of(published, parent.run)

    await published.runs.cancel("acme", parent.run, "bob", "r")

    late = await child_of(published, parent.run)
    await published.hand_in(finish(parent, "cancelled"))
    assert {(await published.run(run)).state for run in (missed, late)} == {RunState.CANCELLED}


async def test_a_run_out_of_time_takes_its_children_with_it(published: Harness):
    """Whether its worker says that the time is up, or the worker is gone and the clock finds out."""
    parent, first = await family(published, max_run_seconds=10)
    late = finish(parent, "failed", reason=Reason.RUN_TIMED_OUT)
    await published.hand_in(late)
    await published.accept(max_run_seconds=10)
    (silent,) = await published.claim(1)
    second = await child_of(published, silent.run)
    await published.age(LEASE_SECONDS + 11)
    await published.clock.rescue()

    for child, above in ((first, parent), (second, silent)):
        said = f"Run {above.run}, which waited for this one, ran out of time."
        assert told(await published.run(child)) == (RunState.CANCELLED, Reason.PARENT_ENDED, said)


async def test_a_run_that_goes_on_elsewhere_keeps_its_children(published: Harness):
    """Neither a lost worker, nor one that hands its runs back, nor a failure cancels what was asked for."""
    parent, child = await family(published)
    await published.hand_in(finish(parent, "released"))
    (again,) = await published.claim(1)
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()
    (third,) = await published.claim(1)

    assert (again.run, third.run) == (parent.run, parent.run)
    assert (await published.run(child)).state is RunState.QUEUED


async def test_a_stopped_organisation_leaves_no_child_behind(published: Harness):
    """The stop cancels what runs; what its runs wait for does not begin once it is lifted."""
    _, child = await family(published)

    await published.control.stop("acme", ADA, message="a leak", cancels=True)

    assert (await published.run(child)).state is RunState.CANCELLED


async def test_a_removed_instance_leaves_no_child_behind(published: Harness):
    """Runs of other instances go with the runs that waited for them."""
    _, child = await family(published)

    await published.registry.remove_instance("uid-a")

    assert (await published.run(child)).reason is Reason.PARENT_ENDED
