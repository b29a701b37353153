"""What workers may rely on: claims, fences, checkpoints, hand-ins, heartbeats."""

import asyncio
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
from tests.support.record import INSTANCE, LEASE_SECONDS, Harness, finish, hold, new_id, seat, step, wish

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Checkpoint, Finish, HeartbeatRequest, Held, LogLine, StepRecord, WorkRequest
from everesthood.domain.errors import Invalid
from everesthood.domain.runs import RunId, RunState

pytestmark = pytest.mark.contract


async def test_a_claim_gives_all_that_the_worker_needs(published: Harness):
    """A claimed run comes with input, attempt, fence, deadline and the request's id, and is running."""
    accepted = await published.accept()

    (held,) = await published.claim()

    run = await published.run(accepted.run)
    assert run.started_at is not None
    assert (held.run, held.fence, held.attempt, held.request_id) == (accepted.run, 1, 1, "req-1")
    assert (bytes(held.input), held.lease_seconds, held.steps) == (run.input, LEASE_SECONDS, ())
    assert held.seconds_left == pytest.approx(3600, abs=0.01)
    assert (run.state, run.revision, run.attempt, run.fence) == (RunState.RUNNING, "r1", 1, 1)


async def test_runs_start_in_the_order_in_which_they_were_accepted(published: Harness):
    """First come, first served; a worker gets no more than it wants."""
    accepted = [(await published.accept()).run for _ in range(6)]

    claims = [await published.claim(want) for want in (2, 0, 3, 10)]

    assert [[held.run for held in claim] for claim in claims] == [
        accepted[:2],
        [],
        accepted[2:5],
        accepted[5:],
    ]


async def test_fifty_workers_at_once_never_claim_the_same_run(published: Harness):
    """However many workers ask at the same time, each run goes to exactly one."""
    accepted = await asyncio.gather(*(published.accept() for _ in range(200)))

    async def drain(pod: int) -> list[str]:
        mine: list[str] = []
        while claimed := await published.claim(3, pod=f"pod-{pod}"):
            mine += [held.run for held in claimed]
        return mine

    shares = await asyncio.gather(*(drain(pod) for pod in range(50)))

    assert Counter(run for share in shares for run in share) == Counter(a.run for a in accepted)


async def test_workers_that_ask_together_share(published: Harness):
    """Nobody takes everything while others of the queue ask at the same moment."""
    await asyncio.gather(*(published.accept() for _ in range(20)))

    shares = await asyncio.gather(*(published.claim(10, pod=f"pod-{n}") for n in range(2)))

    assert [len(share) for share in shares] == [10, 10]


async def test_instances_do_not_see_each_other(published: Harness):
    """A worker claims and hands in for its own instance only, even with another's id and fence."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    await published.accept()

    assert await published.claim(uid="uid-b") == ()
    (held,) = await published.claim()
    stolen = Checkpoint(run=held.run, fence=held.fence, steps=(step("x"),))
    line = LogLine(run=held.run, fence=held.fence, at=1.0, level="info", message="was here")
    theft = WorkRequest(finished=(finish(held),), checkpoints=(stolen,), logs=(line,))
    beat = await published.work.heartbeat(seat(uid="uid-b"), HeartbeatRequest(held=(hold(held),)))
    # Both in one batch: what the owner holds must not make the thief's call good.
    reply, mine = await asyncio.gather(
        published.work.work(seat(uid="uid-b"), theft), published.checkpoint(held, step("mine"))
    )

    assert (reply.lost, mine.lost, beat.lost) == ((held.run,), (), (held.run,))
    assert (await published.run(held.run)).state is RunState.RUNNING
    assert [s.name for s in await published.runs.steps(RunId(held.run))] == ["mine"]
    assert await published.runs.log(RunId(held.run)) == []


async def test_a_finished_run_keeps_its_output_and_steps(published: Harness):
    """What a worker hands in is what people read."""
    await published.accept()
    (held,) = await published.claim()
    done = StepRecord(
        name="greet",
        state="succeeded",
        output=msgspec.Raw(b'{"b":1,"a":[1e400]}'),
        tries=2,
        started_at=1.7e9,
        finished_at=1.7e9 + 1.5,
    )

    reply = await published.hand_in(finish(held, output=msgspec.Raw(b'{"text": "hi"}'), steps=(done,)))

    run = await published.run(held.run)
    (kept,) = await published.runs.steps(run.id)
    assert reply.lost == ()
    assert (run.state, run.reason, run.output) == (RunState.SUCCEEDED, Reason.SUCCEEDED, b'{"text": "hi"}')
    assert run.finished_at is not None
    assert (kept.name, kept.state, kept.output, kept.tries, kept.attempt) == (
        "greet",
        "succeeded",
        b'{"b":1,"a":[1e400]}',
        2,
        1,
    )
    assert kept.started_at is not None
    assert kept.finished_at is not None
    assert (kept.finished_at - kept.started_at).total_seconds() == 1.5


@pytest.mark.parametrize(
    ("outcome", "reason", "state", "kept"),
    [
        ("failed", "StepFailed", RunState.DEAD, Reason.STEP_FAILED),
        ("failed", "HostRefused", RunState.DEAD, Reason.HOST_REFUSED),
        ("failed", "nobody knows this", RunState.DEAD, Reason.STEP_FAILED),
        ("failed", "RunTimedOut", RunState.EXPIRED, Reason.RUN_TIMED_OUT),
        ("ambiguous", "", RunState.AMBIGUOUS, Reason.OUTCOME_UNKNOWN),
        ("cancelled", "", RunState.CANCELLED, Reason.CANCELLED),
    ],
)
async def test_every_outcome_ends_the_run(
    published: Harness, outcome: str, reason: str, state: RunState, kept: Reason
):
    """Each outcome has its state and its reason, and no output is kept but a success's."""
    await published.accept()
    (held,) = await published.claim()

    await published.hand_in(
        finish(held, outcome, reason=reason, message="It was \0 so.", output=msgspec.Raw(b"1"))
    )

    run = await published.run(held.run)
    assert (run.state, run.reason, run.output) == (state, kept, None)
    assert run.message.startswith("It was")
    assert run.finished_at is not None
    assert await published.claim() == ()


async def test_a_second_hand_in_changes_nothing(published: Harness):
    """A hand-in that is sent twice, in one call or in two, counts once."""
    await published.accept()
    (held,) = await published.claim()
    await published.hand_in(
        finish(held, output=msgspec.Raw(b"1")), finish(held, "failed", output=msgspec.Raw(b"2"))
    )
    first = await published.run(held.run)

    reply = await published.hand_in(finish(held, "failed"))

    assert first.output == b"1"
    assert await published.run(held.run) == first
    assert reply.lost == (held.run,)


async def test_a_stale_fence_is_ignored_and_named(published: Harness):
    """Once another attempt holds a run, nothing that the former sends changes it."""
    await published.accept()
    (old,) = await published.claim(pod="old")
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()
    (new,) = await published.claim(pod="new")

    reply = await published.work.work(
        seat(),
        WorkRequest(
            finished=(finish(old),),
            checkpoints=(Checkpoint(run=old.run, fence=old.fence, steps=(step("late"),)),),
            logs=(LogLine(run=old.run, fence=old.fence, at=1.0, level="info", message="late"),),
        ),
    )
    beat = await published.work.heartbeat(seat(), HeartbeatRequest(held=(hold(old), hold(new))))

    assert (new.fence, new.attempt) == (old.fence + 1, old.attempt + 1)
    assert reply.lost == (old.run,)
    assert beat.lost == (old.run,)
    assert (await published.run(old.run)).state is RunState.RUNNING
    assert await published.runs.steps(RunId(old.run)) == []
    assert await published.runs.log(RunId(old.run)) == []


async def test_the_next_attempt_gets_the_checkpoints(published: Harness):
    """A run goes on where it was: its steps come in the order in which they were first written."""
    await published.accept()
    (first,) = await published.claim()
    await published.checkpoint(first, step("b", output=1), step("a", "started"))
    await published.checkpoint(first, step("a", output={"n": 2}), step("c", "started"))
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()

    (second,) = await published.claim()

    assert [(s.name, s.state, bytes(s.output)) for s in second.steps] == [
        ("b", "succeeded", b"1"),
        ("a", "succeeded", b'{"n":2}'),
        ("c", "started", b"null"),
    ]


async def test_a_large_loop_goes_on_with_all_its_checkpoints(published: Harness):
    """The checkpoints of a thousand items, by their names, come back in order with the next claim."""
    await published.accept()
    (first,) = await published.claim()
    names = ["loop/$items", *(f"loop[{n}].ask/turn1/call1" for n in range(1000))]
    for start in range(0, len(names), 300):
        await published.checkpoint(first, *(step(name, output=name) for name in names[start : start + 300]))
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()

    (second,) = await published.claim()

    assert [s.name for s in second.steps] == names
    assert bytes(second.steps[-1].output) == b'"loop[999].ask/turn1/call1"'


async def test_a_step_written_twice_in_one_call_is_kept_in_its_last_state(published: Harness):
    """A step that starts and ends between two calls is over."""
    await published.accept()
    (held,) = await published.claim()
    started = Checkpoint(run=held.run, fence=held.fence, steps=(step("a", "started"),))
    ended = Checkpoint(run=held.run, fence=held.fence, steps=(step("a", "failed"),))

    await published.work.work(
        seat(),
        WorkRequest(checkpoints=(started, ended), finished=(finish(held, "failed", steps=(step("b"),)),)),
    )

    kept = await published.runs.steps(RunId(held.run))
    assert [(s.name, s.state) for s in kept] == [("a", "failed"), ("b", "succeeded")]


async def test_a_released_run_is_due_again_without_a_burnt_attempt(published: Harness):
    """A worker that stops hands its runs back; the next one has as many attempts left as it had."""
    await published.accept(max_attempts=1)
    (held,) = await published.claim()

    await published.hand_in(finish(held, "released", steps=(step("a"),)))
    waiting = await published.run(held.run)
    (again,) = await published.claim()

    assert (waiting.state, waiting.attempt, waiting.finished_at) == (RunState.QUEUED, 0, None)
    assert (again.attempt, again.fence) == (1, held.fence + 1)
    assert [s.name for s in again.steps] == ["a"]


async def test_the_first_start_is_kept(published: Harness):
    """Time counts from the first start: a later attempt gets no new deadline."""
    await published.accept()
    (first,) = await published.claim()
    await published.age(10)
    started = (await published.run(first.run)).started_at
    await published.hand_in(finish(first, "released"))

    (second,) = await published.claim()

    assert (await published.run(first.run)).started_at == started
    assert second.seconds_left == pytest.approx(first.seconds_left - 10, abs=1)


async def test_a_heartbeat_renews_the_lease(published: Harness):
    """A run whose worker speaks up in time is nobody else's."""
    await published.accept()
    (held,) = await published.claim()
    await published.age(LEASE_SECONDS - 1)
    beat = await published.work.heartbeat(seat(), HeartbeatRequest(held=(hold(held),)))
    await published.age(LEASE_SECONDS - 1)

    rescued = await published.clock.rescue()

    assert (beat.lost, beat.cancel, dict(rescued)) == ((), (), {})
    assert await published.claim() == ()


async def test_a_heartbeat_does_not_reach_far_beyond_the_deadline(published: Harness):
    """A worker that ignores the deadline loses the run one lease later."""
    await published.accept(max_run_seconds=60)
    (held,) = await published.claim()
    await published.age(61 + LEASE_SECONDS)
    await published.work.heartbeat(seat(), HeartbeatRequest(held=(hold(held),)))

    await published.clock.rescue()

    run = await published.run(held.run)
    assert (run.state, run.reason) == (RunState.EXPIRED, Reason.RUN_TIMED_OUT)


async def test_a_cancelled_run_is_named_at_the_next_heartbeat(published: Harness):
    """The worker of a cancelled run is told, and its hand-in ends the run as cancelled."""
    accepted = await published.accept()
    (held,) = await published.claim()

    marked = await published.runs.cancel("acme", accepted.run, "bob", "r")
    beat = await published.work.heartbeat(seat(), HeartbeatRequest(held=(hold(held),)))
    await published.hand_in(finish(held, "cancelled", message="stopped"))

    run = await published.run(held.run)
    assert marked is not None
    assert (marked.state, marked.cancel_requested) == (RunState.RUNNING, True)
    assert beat.cancel == (held.run,)
    assert (run.state, run.reason, run.message) == (
        RunState.CANCELLED,
        Reason.CANCELLED,
        "Cancelled by bob.",
    )


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        ("released", RunState.CANCELLED),
        ("succeeded", RunState.SUCCEEDED),
        ("failed", RunState.DEAD),
        ("ambiguous", RunState.AMBIGUOUS),
    ],
)
async def test_what_a_cancelled_run_comes_to_depends_on_its_worker(
    published: Harness, outcome: str, state: RunState
):
    """A cancelled run that is handed back ends; one that was quicker than the cancellation keeps its end."""
    accepted = await published.accept()
    (held,) = await published.claim()
    await published.runs.cancel("acme", accepted.run, "bob", "r")

    await published.hand_in(finish(held, outcome))

    assert (await published.run(held.run)).state is state


async def test_a_new_revision_takes_new_runs_and_leaves_started_ones(published: Harness):
    """A run ends on the revision on which it started; runs that never started go to the current one."""
    for _ in range(3):
        await published.accept()
    first, second = await published.claim(2, revision="r1")
    await published.registry.publish_instance(replace(INSTANCE, generation=2, current_revision="r2"))
    await published.hand_in(finish(first, "released"), revision="r1")

    by_new = await published.claim(revision="r2")
    state = await published.registry.queue_state("uid-a")
    by_old = await published.claim(revision="r1")

    assert {held.run for held in by_new}.isdisjoint({first.run, second.run})
    assert len(by_new) == 1
    assert [held.run for held in by_old] == [first.run]
    assert state.open_revisions == {"r1", "r2"}


async def test_a_worker_of_a_revision_that_is_not_current_claims_nothing_new(published: Harness):
    """Workers of a revision that has not been good yet wait."""
    await published.accept()

    assert await published.claim(revision="r2") == ()
    assert len(await published.claim(revision="r1")) == 1


async def test_a_suspended_instance_starts_nothing_and_finishes_what_runs(published: Harness):
    """Suspending stops new starts; a run that had started may go on."""
    started = await published.accept()
    (held,) = await published.claim()
    await published.accept()
    await published.registry.publish_instance(replace(INSTANCE, generation=2, suspended=True))

    await published.hand_in(finish(held, "released"))
    claimed = await published.claim()

    assert [again.run for again in claimed] == [started.run]


async def test_a_deleted_instance_gives_nothing(published: Harness):
    """Workers of a deleted instance find no work."""
    await published.accept()
    await published.registry.remove_instance("uid-a")

    assert await published.claim() == ()


async def test_one_unreadable_value_spoils_no_other_call(published: Harness):
    """A hand-in that cannot be stored is refused; hand-ins of others in the same batch are kept."""
    for _ in range(3):
        await published.accept()
    a, b, c = await published.claim()
    bad = msgspec.Raw(b'{"unclosed')

    answers = await asyncio.gather(
        published.hand_in(finish(a, output=msgspec.Raw(b"1"))),
        published.hand_in(finish(b, output=bad), pod="bad"),
        published.hand_in(finish(c, output=msgspec.Raw(b"3"))),
        return_exceptions=True,
    )

    if published.database is not None:  # the twin keeps what it is given
        assert isinstance(answers[1], Invalid)
        assert (await published.run(b.run)).state is RunState.RUNNING
    states = [(await published.run(held.run)).output for held in (a, c)]
    assert states == [b"1", b"3"]


async def test_a_call_with_nothing_in_it_is_well(published: Harness):
    """A worker may call with nothing to say."""
    reply = await published.work.work(seat(), WorkRequest())
    beat = await published.work.heartbeat(seat(), HeartbeatRequest(held=()))

    assert (reply.assignments, reply.lost, beat.lost, beat.cancel) == ((), (), (), ())


async def test_unknown_runs_are_lost(published: Harness):
    """Ids that nobody knows are named as lost, once each."""
    ghost = new_id()
    reply = await published.work.work(
        seat(),
        WorkRequest(
            finished=(Finish(run=ghost, fence=1, outcome="succeeded"),),
            logs=(LogLine(run=ghost, fence=1, at=1.0, level="info", message="hello"),) * 2,
        ),
    )
    beat = await published.work.heartbeat(seat(), HeartbeatRequest(held=(Held(run=ghost, fence=1),)))

    assert (reply.lost, beat.lost) == ((ghost,), (ghost,))


async def test_many_runs_go_through_in_one_call(published: Harness):
    """A call hands in and claims hundreds of runs at once."""
    await asyncio.gather(*(published.runs.accept(wish()) for _ in range(300)))
    claimed = await published.claim(300)

    reply = await published.work.work(
        seat(), WorkRequest(finished=tuple(finish(held, steps=(step("a"),)) for held in claimed), want=5)
    )

    assert (len(claimed), reply.lost, reply.assignments) == (300, (), ())
    assert (await published.run(claimed[-1].run)).state is RunState.SUCCEEDED
