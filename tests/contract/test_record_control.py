"""What people may rely on who pause a queue, stop an organisation, cancel, or resolve a run in doubt."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from tests.support.record import INSTANCE, LEASE_SECONDS, Harness, finish, step, waits

from everesthood.apis.reasons import Reason
from everesthood.domain.doubts import Resolution
from everesthood.domain.errors import Conflict, Invalid, NotFound
from everesthood.domain.runs import Dedupe, RunId, RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.ports.record import DueBell, RunFilter

pytestmark = pytest.mark.contract
ADA = Actor(name="ada", request_id="req-9")
NIGHTLY = Schedule(
    name="nightly",
    cron="0 2 * * *",
    time_zone="UTC",
    at=None,
    overlap=Overlap.SKIP,
    missed=Missed.LATEST,
    max_missed=10,
    jitter_seconds=0,
    suspended=False,
    input=b"{}",
)
RING = [("uid-a", "r1")]


# --- pause ----------------------------------------------------------------------------------------


async def test_a_paused_queue_hands_nothing_out(published: Harness):
    """What runs goes on to its end; new runs are accepted and wait, and so do those that began before."""
    await published.accept()
    (held,) = await published.claim()
    await published.accept()
    (begun,) = await published.claim()
    assert await published.control.pause("acme", "greeter", ADA)
    accepted = await published.accept()
    await published.hand_in(finish(begun, "released"))

    claimed = await published.claim()
    await published.hand_in(finish(held))
    await published.age(3)

    assert (claimed, accepted.ring) == ((), None)
    assert (await published.run(held.run)).state is RunState.SUCCEEDED
    assert await published.clock.due_bells(2) == []
    assert ("ada", "queue.pause", "instance/greeter") in await published.audited()


async def test_a_resumed_queue_hands_out_all_that_waited(published: Harness):
    """Nothing was lost; workers of each revision that has work are rung for."""
    await published.accept()
    (begun,) = await published.claim()
    await published.hand_in(finish(begun, "released"))
    await published.control.pause("acme", "greeter", ADA)
    await published.accept()
    await published.registry.publish_instance(replace(INSTANCE, generation=2, current_revision="r2"))

    rings = await published.control.resume("acme", "greeter", ADA)

    assert sorted(rings or ()) == [("uid-a", "r1"), ("uid-a", "r2")]
    assert len(await published.claim(revision="r1")) == 1
    assert len(await published.claim(revision="r2")) == 1


async def test_a_pause_is_no_write_of_the_spec(published: Harness):
    """What the controller publishes later leaves it as it is; so does a second pause, by whomever."""
    await published.control.pause("acme", "greeter", ADA)
    await published.registry.publish_instance(replace(INSTANCE, generation=2, suspended=True))
    await published.control.pause("acme", "greeter", Actor(name="bob"))

    (queue,) = await published.control.queues("acme")

    assert (queue.suspended, queue.stop) == (True, None)
    assert queue.pause is not None
    assert queue.pause.by == "ada"
    assert [line[1] for line in await published.audited()] == ["queue.pause"]
    assert (await published.registry.queue_state("uid-a")).pause == queue.pause


async def test_a_queue_shows_what_is_in_it(published: Harness):
    """Due, later, running and waiting for a person are told apart."""
    for _ in range(4):
        await published.accept()
    running, waiting = await published.claim(2)
    await published.hand_in(waits(waiting, "ask"))
    await published.accept(dedupe=Dedupe(key="k", mode="debounce", seconds=60))

    (queue,) = await published.control.queues("acme", "greeter")

    assert (queue.due, queue.later, queue.running, queue.waiting) == (2, 1, 1, 1)
    assert (queue.instance, queue.current_revision, queue.pause) == ("greeter", "r1", None)
    assert queue.oldest_due_at is not None
    assert running.run != waiting.run


async def test_only_what_is_there_can_be_paused(published: Harness):
    """An unknown or deleted instance, or one of another organisation, has no queue."""
    await published.registry.remove_instance("uid-a")

    assert not await published.control.pause("acme", "greeter", ADA)
    assert await published.control.resume("acme", "nobody", ADA) is None
    assert await published.control.queues("globex") == []
    assert await published.control.queues("acme") == []


# --- stop -----------------------------------------------------------------------------------------


async def test_a_stopped_organisation_accepts_and_starts_nothing(published: Harness):
    """New requests are refused by name; what waits stays; another organisation notices nothing."""
    other = replace(INSTANCE, uid="uid-b", namespace="globex")
    await published.registry.publish_instance(other)
    await published.accept()
    earlier = await published.accept(idempotency_key="k", request_digest=b"d")

    stop = await published.control.stop("acme", ADA, message="a leak", cancels=False)

    for dedupe in (None, Dedupe(key="x")):
        with pytest.raises(Conflict) as refused:
            await published.accept(dedupe=dedupe)
        assert refused.value.reason is Reason.ORGANIZATION_STOPPED
        repeat = await published.accept(idempotency_key="k", request_digest=b"d", dedupe=dedupe)
        assert (repeat.run, repeat.repeated) == (earlier.run, True)
    assert "stopped by ada" in str(stop)
    assert "a leak" in str(stop)
    assert await published.claim() == ()
    assert (await published.accept(namespace="globex", instance_uid="uid-b")).ring == ("uid-b", "r1")
    await published.age(3)
    assert await published.clock.due_bells(2) == [DueBell(instance_uid="uid-b", revision="r1")]
    assert len(await published.listed(RunFilter(namespace="acme"))) == 2
    assert ("ada", "organization.stop", "acme") in await published.audited()


async def test_a_stop_may_let_runs_finish(published: Harness):
    """Without `cancels`, what runs goes on; a second stop can still cancel it."""
    await published.accept()
    (held,) = await published.claim()
    await published.control.stop("acme", ADA, message="", cancels=False)
    spared = await published.run(held.run)

    await published.control.stop("acme", ADA, message="", cancels=True)

    assert (spared.cancel_requested, await published.clock.cancel_stopped()) == (False, 0)
    assert (await published.run(held.run)).cancel_requested


async def test_a_stop_cancels_what_runs_and_says_why(published: Harness):
    """Workers are told; the runs end as cancelled with the stop's reason, whatever their workers do."""
    runs = [(await published.accept()).run for _ in range(2)]
    obeys, _ = await published.claim()
    await published.control.stop("acme", ADA, message="a leak", cancels=True)

    reply = await published.heartbeat(obeys)
    await published.hand_in(finish(obeys, "cancelled"))
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()

    found = [await published.run(run) for run in runs]
    assert reply.cancel == (obeys.run,)
    assert {(run.state, run.reason) for run in found} == {(RunState.CANCELLED, Reason.ORGANIZATION_STOPPED)}
    assert all("a leak" in run.message for run in found)
    assert ("ada", "run.cancel", f"run/{runs[0]}") in await published.audited()


async def test_a_start_lets_all_that_waited_go_on(published: Harness):
    """Runs are handed out and accepted again; a paused queue stays paused."""
    await published.accept()
    await published.control.stop("acme", ADA, message="", cancels=True)

    rings = await published.control.start("acme", ADA)
    again = await published.control.start("acme", ADA)

    assert (list(rings), list(again)) == (RING, [])
    assert (await published.accept()).ring == ("uid-a", "r1")
    assert len(await published.claim()) == 2
    await published.control.pause("acme", "greeter", ADA)
    await published.control.stop("acme", ADA, message="", cancels=True)
    with pytest.raises(Conflict):
        await published.accept()
    await published.control.start("acme", ADA)
    await published.accept()
    assert await published.claim() == ()


async def test_what_is_published_into_a_stopped_organisation_is_stopped_too(published: Harness):
    """A new instance is no way around an incident."""
    await published.control.stop("acme", ADA, message="", cancels=True)
    newer = replace(INSTANCE, uid="uid-n", name="newer", template="other")
    await published.registry.publish_instance(newer)

    with pytest.raises(Conflict):
        await published.accept(instance="newer", instance_uid="uid-n")
    state = await published.registry.queue_state("uid-n")
    await published.control.start("acme", ADA)

    assert state.stop is not None
    assert (await published.accept(instance="newer", instance_uid="uid-n")).ring == ("uid-n", "r1")


async def test_what_began_beside_a_stop_is_cancelled_soon(published: Harness):
    """A claim that a stop did not see is found by the scheduler."""
    await published.control.stop("acme", ADA, message="", cancels=True)
    await published.control.start("acme", ADA)
    await published.accept()
    (held,) = await published.claim()
    await published.control.stop("acme", ADA, message="", cancels=False)
    before = await published.clock.cancel_stopped()
    await published.control.start("acme", ADA)
    await published.control.stop("acme", ADA, message="", cancels=True)

    assert before == 0
    assert (await published.run(held.run)).cancel_requested


async def test_schedules_of_a_stopped_organisation_do_not_fire(published: Harness):
    """Times pass as those of a suspended schedule do."""
    await published.registry.publish_instance(replace(INSTANCE, generation=2, schedules=(NIGHTLY,)))
    await published.control.stop("acme", ADA, message="", cancels=True)
    await published.age(2 * 86_400)

    held = await published.clock.fire_schedules(10)
    await published.control.start("acme", ADA)
    fired = await published.clock.fire_schedules(10)

    assert (held.schedules, fired.schedules) == (0, 1)


# --- cancel ---------------------------------------------------------------------------------------


async def test_a_cancelled_run_ends_after_its_grace_though_its_worker_goes_on(published: Harness):
    """The worker renews its lease and never stops; the run is over all the same, and is its worker's no more."""
    accepted = await published.accept()
    (held,) = await published.claim()
    await published.runs.cancel("acme", accepted.run, "bob", "r", 5)
    early = dict(await published.clock.rescue())
    await published.age(6)
    told = await published.heartbeat(held)

    counts = dict(await published.clock.rescue())

    run = await published.run(accepted.run)
    late = await published.heartbeat(held)
    assert (early, counts) == ({}, {"cancelled": 1})
    assert (run.state, run.message) == (RunState.CANCELLED, "Cancelled by bob.")
    assert (told.cancel, late.lost) == ((held.run,), (held.run,))


@asynccontextmanager
async def listening(record: Harness, *uids: str) -> AsyncIterator[list[str]]:
    """Yield the instances that are told of, as they come."""
    heard: list[str] = []

    async def listen(uid: str) -> None:
        async with aclosing(record.cancellations.of(uid)) as told:  # type: ignore[type-var]
            async for _ in told:
                heard.append(uid)  # noqa: PERF401 - one by one, as they come

    tasks = [asyncio.create_task(listen(uid)) for uid in uids]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while record.database is not None and len(heard) < len(
            uids
        ):  # a connection that is new tells everybody
            await asyncio.sleep(0.005)
    heard.clear()
    yield heard
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_some(heard: list[str]) -> None:
    async with asyncio.timeout(5):
        while not heard:
            await asyncio.sleep(0.005)


async def test_a_cancellation_is_told_of_at_once(published: Harness):
    """Whoever listens for an instance hears of its cancelled run, and of no other instance's."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    accepted = await published.accept()
    await published.claim()
    async with listening(published, "uid-a", "uid-b") as heard:
        await published.runs.cancel("acme", accepted.run, "bob", "r")
        await until_some(heard)

    assert heard == ["uid-a"]


async def test_the_end_of_a_grace_is_told_of_at_once(published: Harness):
    """A worker that still holds the run frees its slot; nobody is told of what only lost its worker."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    accepted = await published.accept()
    await published.claim()
    await published.accept(instance_uid="uid-b", instance="other")
    await published.claim(uid="uid-b")
    await published.runs.cancel("acme", accepted.run, "bob", "r", 5)
    await published.age(LEASE_SECONDS + 1)
    async with listening(published, "uid-a", "uid-b") as heard:
        counts = dict(await published.clock.rescue())
        await until_some(heard)

    assert (counts, heard) == ({"cancelled": 1, "queued": 1}, ["uid-a"])


# --- resolve --------------------------------------------------------------------------------------


def resolution(run: str, answer: str, step: str | None = None, **more: object) -> Resolution:
    return Resolution(namespace="acme", run=RunId(run), answer=answer, actor="ada", step=step, **more)  # type: ignore[arg-type]


async def in_doubt(record: Harness, *names: str) -> str:
    """Return a run that stopped as ambiguous in these steps."""
    await record.accept(max_run_seconds=100)
    (held,) = await record.claim()
    steps = (step("before", output=1), *(step(name, "started") for name in names))
    await record.hand_in(
        finish(held, "ambiguous", steps=steps, message="whether it took effect is not known")
    )
    return held.run


async def test_a_step_that_took_effect_is_marked_as_done(published: Harness):
    """The run goes on behind it, with the output that the person gives and with all of its time."""
    run = await in_doubt(published, "pay")
    await published.age(5000)

    rings = await published.control.resolve(resolution(run, "done", output=b'{"id":7}', comment="seen"))
    await published.clock.rescue()
    (again,) = await published.claim()

    found = await published.run(run)
    assert (list(rings), found.state, found.finished_at) == (RING, RunState.RUNNING, None)
    assert [(one.name, one.state, bytes(one.output)) for one in again.steps] == [
        ("before", "succeeded", b"1"),
        ("pay", "succeeded", b'{"id":7}'),
    ]
    assert ("ada", "run.resolve.done", f"run/{run}/steps/pay") in await published.audited()


async def test_a_step_that_took_no_effect_is_repeated(published: Harness):
    """It is begun anew, what was done before is not; the steps around it go on from their checkpoints."""
    run = await in_doubt(published, "loop", "loop[2].pay")

    await published.control.resolve(resolution(run, "repeat"))

    (again,) = await published.claim()
    assert [one.name for one in again.steps] == ["before"]


async def test_a_run_is_given_up(published: Harness):
    """It is dead, with who and why, and can be replayed like any other."""
    run = await in_doubt(published, "pay")

    await published.control.resolve(resolution(run, "giveUp", comment="refunded by hand"))

    found = await published.run(run)
    assert (found.state, found.reason) == (RunState.DEAD, Reason.GIVEN_UP)
    assert found.message == "Given up by ada: refunded by hand"
    assert await published.claim() == ()


async def test_each_step_in_doubt_is_resolved_by_itself(published: Harness):
    """While one is left, the run stays ambiguous and names it; without a name, several are no answer."""
    run = await in_doubt(published, "loop", "loop[0].pay", "loop[3].pay")
    with pytest.raises(Invalid, match="loop\\[0\\].pay, loop\\[3\\].pay"):
        await published.control.resolve(resolution(run, "done"))

    first = await published.control.resolve(resolution(run, "done", "loop[0].pay"))
    between = await published.run(run)
    await published.control.resolve(resolution(run, "repeat", "loop[3].pay"))

    (again,) = await published.claim()
    assert (list(first), between.state) == ([], RunState.AMBIGUOUS)
    assert "loop[3].pay" in between.message
    assert [(one.name, one.state) for one in again.steps] == [
        ("before", "succeeded"),
        ("loop[0].pay", "succeeded"),
    ]


async def test_only_doubts_can_be_resolved(published: Harness):
    """A run that is not ambiguous, a step that is not in doubt, a run of elsewhere: each is refused by name."""
    run = await in_doubt(published, "pay")
    fine = (await published.accept()).run

    with pytest.raises(Conflict) as clear:
        await published.control.resolve(resolution(fine, "repeat"))
    with pytest.raises(NotFound) as known:
        await published.control.resolve(resolution(run, "done", "before"))
    with pytest.raises(NotFound):
        await published.control.resolve(replace(resolution(run, "repeat"), namespace="globex"))
    await published.registry.remove_instance("uid-a")
    with pytest.raises(Conflict) as gone:
        await published.control.resolve(resolution(run, "repeat"))
    await published.control.resolve(resolution(run, "giveUp"))

    assert clear.value.reason is Reason.RUN_NOT_AMBIGUOUS
    assert known.value.reason is Reason.STEP_NOT_IN_DOUBT
    assert gone.value.reason is Reason.INSTANCE_DELETED


# --- replays --------------------------------------------------------------------------------------


async def test_a_replayed_run_names_its_latest_replay(published: Harness):
    """So what is still to be replayed can be listed."""
    dead = [(await published.accept()).run for _ in range(2)]
    for held in await published.claim():
        await published.hand_in(finish(held, "failed"))
    latest = max([(await published.accept(replay_of=dead[0])).run for _ in range(2)])
    every = RunFilter(namespace="acme", states=frozenset({RunState.DEAD}))

    shown = {run.id: run.replayed_by for run in await published.listed(every)}
    left = await published.listed(replace(every, replayed=False))
    done = await published.listed(replace(every, replayed=True))

    assert shown == {dead[0]: latest, dead[1]: None}
    assert (await published.run(dead[0])).replayed_by == latest
    assert ([run.id for run in left], [run.id for run in done]) == ([dead[1]], [dead[0]])
