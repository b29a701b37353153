"""What the scheduler may rely on of schedules: published with their instance, fired once, missed times, overlap.

Time is moved by whole minutes, so that the fire times of the crons below stay fire times.
"""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.record import INSTANCE, Harness, finish, wish

from everesthood.apis.reasons import Reason
from everesthood.domain.runs import RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.ports.record import RunFilter, StoredSchedule
from everesthood.usecases.ports.registry import PublishedRevision

pytestmark = pytest.mark.contract
DAY = 86_400
TICK = Schedule(
    name="tick",
    cron="* * * * *",
    time_zone="Etc/UTC",
    at=None,
    overlap=Overlap.ALLOW,
    missed=Missed.LATEST,
    max_missed=3,
    jitter_seconds=0,
    suspended=False,
    input=b'{"who":"clock"}',
)


@pytest.fixture(autouse=True)
async def _steady_minute() -> None:
    """No test runs into the next minute, whose time would be one more."""
    second = datetime.now(UTC).second
    if second >= 56:
        await asyncio.sleep(60.1 - second)


async def publish(record: Harness, *schedules: Schedule, generation: int = 1, **changes: object) -> None:
    found = replace(INSTANCE, generation=generation, schedules=schedules, **changes)  # type: ignore[arg-type]
    await record.registry.publish_instance(found)


async def runs(record: Harness) -> list:
    page = (await record.runs.list(RunFilter(namespace="acme"))).runs
    return [await record.run(run.id) for run in reversed(page)]


async def only(record: Harness) -> StoredSchedule:
    (found,) = await record.runs.schedules("uid-a")
    return found


async def test_a_due_schedule_starts_a_run(record: Harness):
    """The run carries the schedule, its time and its input, is audited, and its queue is rung."""
    spec = b'{"queue":{"maxAttempts":1,"maxRunSeconds":60}}'
    await record.registry.publish_revision(
        PublishedRevision(namespace="acme", digest="r1", template="greeting", spec=spec)
    )
    await publish(record, TICK)
    before = await only(record)
    await record.age(60)

    fired = await record.clock.fire_schedules(100)

    assert (fired.schedules, fired.started, fired.skipped) == (1, 1, 0)
    assert fired.ring == (("uid-a", "r1"),)
    (run,) = await runs(record)
    assert (run.state, run.schedule, run.input) == (RunState.QUEUED, "tick", b'{"who":"clock"}')
    assert run.fire_at is not None
    assert await record.audited() == [("schedule/tick", "run.accept", f"run/{run.id}")]
    after = await only(record)
    assert after.last_fire_at == run.fire_at
    assert after.next_fire_at == run.fire_at + timedelta(minutes=1)
    assert (before.last_fire_at, before.schedule) == (None, TICK)
    (held,) = await record.claim()
    assert (held.run, held.seconds_left < 130) == (run.id, True)


async def test_a_time_is_fired_once(record: Harness):
    """Whoever asks again, at once or together, finds nothing to do."""
    await publish(record, TICK)
    await record.age(60)

    fired = await asyncio.gather(*(record.clock.fire_schedules(100) for _ in range(5)))

    assert sum(one.started for one in fired) == 1
    assert len(await runs(record)) == 1


async def test_nothing_is_fired_before_its_time(record: Harness):
    """A new schedule counts from its publication, and jitter waits."""
    await publish(record, replace(TICK, cron="0 0 1 1 *"), replace(TICK, name="other", cron="0 0 1 1 *"))

    assert (await record.clock.fire_schedules(100)).schedules == 0
    assert [found.schedule.name for found in await record.runs.schedules("uid-a")] == ["other", "tick"]
    assert await record.runs.schedules("uid-b") == []


async def test_at_most_so_many_at_a_time(record: Harness):
    """A batch is bounded; the rest is for the next."""
    await publish(record, *(replace(TICK, name=f"tick-{n}") for n in range(5)))
    await record.age(60)

    assert [(await record.clock.fire_schedules(2)).schedules for _ in range(4)] == [2, 2, 1, 0]
    assert len(await runs(record)) == 5


async def test_an_unchanged_schedule_keeps_its_time(record: Harness):
    """A new generation, input or policy leaves the next time alone; another timing counts from now."""
    await publish(record, replace(TICK, cron="0 0 * * *"))
    await record.age(DAY)
    overdue = (await only(record)).next_fire_at
    changed = replace(TICK, cron="0 0 * * *", input=b"{}", overlap=Overlap.SKIP)
    await publish(record, changed, generation=2)
    kept = await only(record)
    await publish(record, replace(changed, time_zone="Asia/Kolkata"), generation=3)
    anew = await only(record)

    assert (kept.next_fire_at, kept.schedule) == (overdue, changed)
    assert anew.next_fire_at > overdue
    assert (await record.clock.fire_schedules(100)).schedules == 0


async def test_an_older_generation_changes_nothing(record: Harness):
    """A controller that comes late does not bring an old schedule back."""
    await publish(record, generation=2)
    await publish(record, TICK, generation=1)

    assert await record.runs.schedules("uid-a") == []


async def test_a_removed_schedule_is_gone(record: Harness):
    """It fires no more; its runs stay."""
    await publish(record, TICK, replace(TICK, name="tock"))
    await record.age(60)
    await record.clock.fire_schedules(100)
    await publish(record, replace(TICK, name="tock"), generation=2)
    await record.age(60)

    assert (await record.clock.fire_schedules(100)).schedules == 1
    assert len(await runs(record)) == 3


async def test_a_deleted_instance_has_no_schedules(record: Harness):
    """With the instance its schedules go, and runs that wait for their turn end."""
    await publish(record, replace(TICK, overlap=Overlap.QUEUE, missed=Missed.ALL))
    await record.age(120)
    await record.clock.fire_schedules(100)
    await record.registry.remove_instance("uid-a")
    await record.age(60)

    assert (await record.clock.fire_schedules(100)).schedules == 0
    assert await record.runs.schedules("uid-a") == []
    assert {run.reason for run in await runs(record)} == {Reason.INSTANCE_DELETED}


@pytest.mark.parametrize(
    "held_by", [{"suspended": True}, {"current_revision": None}, {}], ids=["instance", "revision", "schedule"]
)
async def test_a_suspended_schedule_makes_up_later(record: Harness, held_by):
    """While it, its instance or the lack of a revision holds it, nothing fires; then `missed` decides."""
    daily = replace(TICK, cron="0 0 * * *")
    await publish(record, daily if held_by else replace(daily, suspended=True), **held_by)
    await record.age(3 * DAY)
    meanwhile = await record.clock.fire_schedules(100)
    was = await only(record)
    await publish(record, daily, generation=2)

    fired = await record.clock.fire_schedules(100)

    assert (meanwhile.schedules, was.suspended) == (0, True)
    assert fired.started == 1
    assert not (await only(record)).suspended


@pytest.mark.parametrize(("missed", "expected"), [(Missed.SKIP, 0), (Missed.LATEST, 1), (Missed.ALL, 3)])
async def test_missed_times(record: Harness, missed, expected):
    """After days without a scheduler, the policy says how many runs are made up for, each with its time."""
    await publish(record, replace(TICK, cron="0 0 * * *", missed=missed))
    await record.age(5 * DAY)

    fired = await record.clock.fire_schedules(100)

    found = await runs(record)
    assert fired.started == len(found) == expected
    assert len({run.fire_at for run in found}) == expected
    assert (await only(record)).next_fire_at > datetime.now(UTC)


async def test_a_one_shot_fires_once(record: Harness):
    """After its time there is no other."""
    soon = datetime.now(UTC) + timedelta(seconds=30)
    await publish(record, replace(TICK, cron=None, at=soon))
    await record.age(60)

    assert (await record.clock.fire_schedules(100)).started == 1
    assert (await only(record)).next_fire_at is None
    await record.age(60)
    assert (await record.clock.fire_schedules(100)).schedules == 0


async def test_a_time_beside_an_open_run_is_skipped(record: Harness):
    """With `overlap: Skip` the next run starts once the earlier one is over."""
    await publish(record, replace(TICK, overlap=Overlap.SKIP))
    await record.age(60)
    await record.clock.fire_schedules(100)
    await record.age(60)
    beside = await record.clock.fire_schedules(100)
    (held,) = await record.claim()
    await record.hand_in(finish(held))
    await record.age(60)
    after = await record.clock.fire_schedules(100)

    assert (beside.started, beside.skipped, beside.ring) == (0, 1, ())
    assert after.started == 1


async def test_runs_of_others_are_nobodys_business(record: Harness):
    """A run of another schedule, or one that somebody asked for, stands in no schedule's way."""
    await publish(record, replace(TICK, overlap=Overlap.SKIP))
    await record.runs.accept(wish())
    await record.runs.accept(wish(schedule="tock"))
    await record.age(60)

    assert (await record.clock.fire_schedules(100)).started == 1


async def test_queued_runs_start_one_after_the_other(record: Harness):
    """With `overlap: Queue` runs are accepted at their time, and held until the earlier ones are over."""
    await publish(record, replace(TICK, overlap=Overlap.QUEUE, missed=Missed.ALL))
    await record.age(120)
    fired = await record.clock.fire_schedules(100)
    first, second = await runs(record)
    none_yet = await record.clock.release_held(100)
    (one,) = await record.claim()
    await record.age(60)
    await record.clock.fire_schedules(100)
    await record.hand_in(finish(one))
    waiting = await record.run(second.id)
    released = await record.clock.release_held(100)
    free = await record.run(second.id)
    (two,) = await record.claim()

    assert (fired.started, len(fired.ring), none_yet) == (2, 1, [])
    assert (waiting.state, waiting.reason) == (RunState.QUEUED, Reason.WAITS_FOR_EARLIER)
    assert (free.reason, free.message) == (None, "")
    assert (one.run, two.run, released) == (first.id, second.id, [("uid-a", "r1")])
    assert await record.clock.release_held(100) == []
    assert await record.claim() == ()
    await record.hand_in(finish(two))
    assert len(await record.clock.release_held(100)) == 1
    (three,) = await record.claim()
    assert (await record.run(three.run)).schedule == "tick"


async def test_held_runs_ring_nobody(record: Harness):
    """Work that waits for other work is not forgotten work."""
    await publish(record, replace(TICK, overlap=Overlap.QUEUE, missed=Missed.ALL))
    await record.age(120)
    await record.clock.fire_schedules(100)
    await record.claim()
    await record.age(60)

    assert await record.clock.due_bells(2) == []


async def test_a_schedule_cancels_its_previous_runs(record: Harness):
    """With `overlap: CancelPrevious` waiting runs end, the running one is told to stop, the new one starts."""
    await publish(record, replace(TICK, overlap=Overlap.CANCEL_PREVIOUS))
    await record.age(60)
    await record.clock.fire_schedules(100)
    (held,) = await record.claim()
    waiting = (await record.runs.accept(wish(schedule="tick"))).run
    await record.age(60)

    fired = await record.clock.fire_schedules(100)

    running, ended = await record.run(held.run), await record.run(waiting)
    assert (fired.started, fired.cancelled) == (1, 2)
    assert (running.state, running.cancel_requested) == (RunState.RUNNING, True)
    assert (ended.state, ended.reason) == (RunState.CANCELLED, Reason.CANCELLED)
    assert ended.message == "Cancelled by schedule tick, whose next time came."
    assert ("schedule/tick", "run.cancel", f"run/{waiting}") in await record.audited()
    await record.age(60)
    assert (await record.clock.fire_schedules(100)).cancelled == 1


async def test_many_schedules_fire_in_one_batch(record: Harness):
    """Schedules of many instances come with their own instance, name and revision."""
    for n in range(3):
        found = replace(
            INSTANCE, uid=f"uid-{n}", name=f"greeter-{n}", schedules=(TICK,), current_revision=f"r{n}"
        )
        await record.registry.publish_instance(found)
    await record.age(60)

    fired = await record.clock.fire_schedules(100)

    assert sorted(fired.ring) == [("uid-0", "r0"), ("uid-1", "r1"), ("uid-2", "r2")]
    assert {(run.instance_uid, run.instance) for run in await runs(record)} == {
        ("uid-0", "greeter-0"), ("uid-1", "greeter-1"), ("uid-2", "greeter-2"),
    }  # fmt: skip
