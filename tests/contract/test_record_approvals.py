"""What people may rely on who are asked by a run: it waits, it goes on, it ends; nothing of it is lost."""

from dataclasses import replace

import msgspec
import pytest
from tests.support.record import INSTANCE, LEASE_SECONDS, Harness, finish, step, waits

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Assignment
from everesthood.domain.approvals import Decision
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.runs import Run, RunId, RunState
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.contract
RING = [("uid-a", "r1")]


def decision(run: str, name: str = "ask", *, approved: bool = True, by: str = "bob", **more: str) -> Decision:
    return Decision(namespace="acme", run=RunId(run), step=name, approved=approved, actor=by, **more)


async def waiting(record: Harness, *names: str, **options: object) -> Assignment:
    """Return the attempt of a run that waits with questions in these steps."""
    await record.accept()
    (held,) = await record.claim()
    await record.hand_in(waits(held, *(names or ("ask",)), **options))  # type: ignore[arg-type]
    return held


async def test_a_waiting_run_shows_its_question_and_holds_nothing(published: Harness):
    """It says what it asks and until when, has no lease to lose and used up no attempt."""
    held = await waiting(published)
    await published.age(LEASE_SECONDS + 1)
    counts = await published.clock.rescue()

    run = await published.run(held.run)
    (asked,) = run.approvals
    assert (run.state, run.reason, run.message) == (
        RunState.WAITING,
        Reason.WAITS_FOR_APPROVAL,
        "steps.ask: May ask?",
    )
    assert (asked.step, asked.message, run.attempt, dict(counts)) == ("ask", "May ask?", 0, {})
    assert (asked.deadline_at - asked.asked_at).total_seconds() == 600
    assert await published.claim() == ()


async def test_waiting_runs_are_listed_with_their_questions(published: Harness):
    """A list of what waits is enough to decide by; runs of other states ask nothing."""
    first, second = await waiting(published), await waiting(published, "b", "a")
    await published.accept()

    found = await published.listed(RunFilter(namespace="acme", states=frozenset({RunState.WAITING})))
    everything = await published.listed(RunFilter(namespace="acme"))

    asked = {run.id: [one.step for one in run.approvals] for run in found}
    assert asked == {first.run: ["ask"], second.run: ["a", "b"]}
    assert sorted(len(run.approvals) for run in everything) == [0, 1, 2]


async def test_an_approved_run_goes_on_with_the_answer(published: Harness):
    """The step succeeds with who, what and when; the run is due at once, on its own revision."""
    held = await waiting(published)
    await published.registry.publish_instance(replace(INSTANCE, generation=2, current_revision="r2"))

    rings = await published.control.decide(decision(held.run, comment="well\x00 done"))
    old, new = await published.claim(revision="r1"), await published.claim(revision="r2")

    (again,) = old
    (done,) = again.steps
    output = msgspec.json.decode(done.output)
    assert (rings, new, again.attempt, again.fence) == (RING, (), 1, 2)
    assert (done.name, done.state) == ("ask", "succeeded")
    assert (output["approved"], output["by"]) == (True, "bob")
    assert output["comment"].startswith("well")
    assert output["at"]
    assert (await published.run(held.run)).approvals == ()
    assert ("bob", "run.approve", f"run/{held.run}/steps/ask") in await published.audited()


async def test_a_rejected_run_is_dead_without_a_worker(published: Harness):
    """The step fails with who and why, and the run with it; there is nothing left to claim."""
    held = await waiting(published)

    rings = await published.control.decide(decision(held.run, approved=False, comment="too dear"))

    run = await published.run(held.run)
    (done,) = await published.runs.steps(RunId(held.run))
    assert (rings, await published.claim()) == ([], ())
    assert (run.state, run.reason) == (RunState.DEAD, Reason.APPROVAL_REJECTED)
    assert run.message == "steps.ask: rejected by bob: too dear"
    assert run.finished_at is not None
    assert (done.state, done.reason) == ("failed", Reason.APPROVAL_REJECTED)
    assert ("bob", "run.reject", f"run/{held.run}/steps/ask") in await published.audited()


async def test_a_rejection_may_be_an_answer_like_another(published: Harness):
    """With onReject: Continue the run goes on and finds `approved: false`."""
    held = await waiting(published, on_reject="Continue")

    await published.control.decide(decision(held.run, approved=False))

    (again,) = await published.claim()
    assert msgspec.json.decode(again.steps[0].output)["approved"] is False


async def test_the_same_answer_twice_is_one(published: Harness):
    """A repeated click changes nothing and is no error; another answer is a conflict that names who was first."""
    held = await waiting(published)
    await published.control.decide(decision(held.run))

    assert await published.control.decide(decision(held.run, by="eve")) == []
    with pytest.raises(Conflict, match="approved by bob") as refused:
        await published.control.decide(decision(held.run, approved=False, by="eve"))

    assert refused.value.reason is Reason.ALREADY_DECIDED
    assert [line[1] for line in await published.audited()] == ["run.accept", "run.approve"]


async def test_only_what_was_asked_can_be_answered(published: Harness):
    """Another step, another run, another organisation: not found; a run that is over: a conflict."""
    held = await waiting(published)
    other = decision("00000000-0000-7000-8000-000000000000")
    for nowhere in (decision(held.run, "b"), other, replace(decision(held.run), namespace="globex")):
        with pytest.raises(NotFound):
            await published.control.decide(nowhere)
    await published.runs.cancel("acme", RunId(held.run), "bob", "r")

    with pytest.raises(Conflict) as refused:
        await published.control.decide(decision(held.run))

    assert refused.value.reason is Reason.RUN_FINISHED


async def test_a_waiting_run_is_cancelled_at_once(published: Harness):
    """No worker is asked, and its question is no longer shown."""
    held = await waiting(published)

    run = await published.runs.cancel("acme", RunId(held.run), "bob", "r")

    assert run is not None
    assert (run.state, run.approvals) == (RunState.CANCELLED, ())


async def test_a_question_ends_with_its_deadline(published: Harness):
    """The scheduler fails the step and the run, says why, and does so once; nobody can answer after that."""
    held = await waiting(published, seconds=60)
    kept = await waiting(published, seconds=600)
    await published.age(61)
    late = decision(held.run)
    with pytest.raises(Conflict) as refused:
        await published.control.decide(late)

    ended = [await published.clock.expire_approvals(), await published.clock.expire_approvals()]

    run = await published.run(held.run)
    assert (ended, refused.value.reason) == ([1, 0], Reason.APPROVAL_EXPIRED)
    assert (run.state, run.reason) == (RunState.DEAD, Reason.APPROVAL_EXPIRED)
    assert run.message == "steps.ask: nobody decided before the deadline"
    assert (await published.run(kept.run)).state is RunState.WAITING
    with pytest.raises(Conflict):
        await published.control.decide(late)
    assert ("scheduler", "run.approval-expire", f"run/{held.run}/steps/ask") in await published.audited()


async def test_the_deadline_of_a_run_that_is_over_troubles_nobody(published: Harness):
    """A question whose run was cancelled is passed over."""
    held = await waiting(published, seconds=60)
    await published.runs.cancel("acme", RunId(held.run), "bob", "r")
    await published.age(61)

    assert await published.clock.expire_approvals() == 0
    assert (await published.run(held.run)).state is RunState.CANCELLED


async def test_waiting_for_a_person_takes_nothing_from_the_runs_time(published: Harness):
    """A run of 100 s that waited for 500 s has the rest of its 100 s."""
    await published.accept(max_run_seconds=100)
    (held,) = await published.claim()
    await published.age(40)
    await published.hand_in(waits(held, "ask"))
    await published.age(500)
    await published.clock.rescue()
    await published.control.decide(decision(held.run))

    (again,) = await published.claim()
    await published.hand_in(finish(again, "released"))
    await published.age(50)
    early = dict(await published.clock.rescue())
    await published.age(15)

    assert early == {}
    assert dict(await published.clock.rescue()) == {"expired": 1}


async def test_a_run_with_two_questions_goes_on_with_the_first_answer(published: Harness):
    """The other question stays as it was asked, deadline included, while the run works and waits again."""
    held = await waiting(published, "a", "b", seconds=100)
    await published.age(40)
    await published.control.decide(decision(held.run, "a"))
    (again,) = await published.claim()
    working = await published.run(held.run)
    await published.hand_in(waits(again, "b", seconds=100))

    run = await published.run(held.run)
    assert [one.step for one in working.approvals] == ["b"]
    assert (run.state, run.approvals) == (RunState.WAITING, working.approvals)
    await published.age(61)
    assert await published.clock.expire_approvals() == 1


async def test_an_answer_that_comes_while_the_run_works_is_not_lost(published: Harness):
    """A worker that then says that it waits is wrong: the run is due again and the next one finds the answer."""
    held = await waiting(published, "a", "b")
    await published.control.decide(decision(held.run, "a"))
    (again,) = await published.claim()

    rings = await published.control.decide(decision(held.run, "b"))
    await published.hand_in(waits(again, "b"))
    queued = await published.run(held.run)
    (third,) = await published.claim()
    await published.hand_in(waits(third, "c"))

    assert (rings, queued.state) == ([], RunState.QUEUED)
    assert [one.name for one in third.steps] == ["a", "b"]
    assert (await published.run(held.run)).state is RunState.WAITING  # an answer counts once


async def test_a_no_that_comes_while_the_run_works_ends_it_at_the_next_start(published: Harness):
    """The running attempt is not torn; the next one finds the failed step, a failed attempt before or not."""
    held = await waiting(published, "a", "b")
    await published.control.decide(decision(held.run, "a"))
    (again,) = await published.claim()

    await published.control.decide(decision(held.run, "b", approved=False))
    running = await published.run(held.run)
    await published.hand_in(waits(again, "b"))
    (third,) = await published.claim()

    assert running.state is RunState.RUNNING
    assert [(one.name, one.state) for one in third.steps] == [("a", "succeeded"), ("b", "failed")]


async def test_a_cancelled_run_does_not_begin_to_wait(published: Harness):
    """A cancellation that the worker did not hear of counts when it hands the run in as waiting."""
    await published.accept()
    (held,) = await published.claim()
    await published.runs.cancel("acme", RunId(held.run), "bob", "r")

    await published.hand_in(waits(held, "ask"))

    run = await published.run(held.run)
    assert (run.state, run.message) == (RunState.CANCELLED, "Cancelled by bob.")


async def test_a_stale_worker_asks_nothing(published: Harness):
    """Questions of an attempt that lost its run are not kept."""
    await published.accept()
    (held,) = await published.claim()
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()
    (again,) = await published.claim()

    reply = await published.hand_in(waits(held, "ask"))

    assert reply.lost == (held.run,)
    assert (await published.run(again.run)).approvals == ()


async def test_a_waiting_run_keeps_its_revision_open(published: Harness):
    """The controller must know that workers of that revision are still needed."""
    await waiting(published)

    assert (await published.registry.queue_state("uid-a")).open_revisions == {"r1"}


async def test_checkpoints_before_a_wait_are_there_after_it(published: Harness):
    """Nothing that was done before the question is done again."""
    await published.accept()
    (held,) = await published.claim()
    await published.checkpoint(held, step("a"))
    await published.hand_in(waits(held, "ask"))
    await published.control.decide(decision(held.run))

    (again,) = await published.claim()

    assert [one.name for one in again.steps] == ["a", "ask"]


async def test_deleting_the_instance_ends_its_waiting_runs(published: Harness):
    """Nobody can approve what nothing will execute."""
    held = await waiting(published)
    await published.registry.remove_instance("uid-a")

    run: Run = await published.run(held.run)
    assert (run.state, run.reason) == (RunState.CANCELLED, Reason.INSTANCE_DELETED)
