"""When schedules are due, and what becomes of a time: pure decisions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everesthood.apis.v1alpha1.instance import Schedule as Spec
from everesthood.domain import cron, schedules
from everesthood.domain.runs import RunState
from everesthood.domain.schedules import GRACE, MAX_WAITING, Due, Missed, Overlap, Schedule

SCHEDULE = Schedule(
    name="daily",
    cron="0 6 * * *",
    time_zone="Etc/UTC",
    at=None,
    overlap=Overlap.ALLOW,
    missed=Missed.LATEST,
    max_missed=10,
    jitter_seconds=0,
    suspended=False,
    input=b'{"who":"World"}',
)
MINUTELY = replace(SCHEDULE, cron="* * * * *")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
BERLIN = "Europe/Berlin"  # 2026: forward on 29 March at 2:00, back on 25 October at 3:00
LORD_HOWE = "Australia/Lord_Howe"  # half an hour: forward on 4 October at 2:00


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(expression: str, zone: str, after: str, count: int) -> list[str]:
    found, at = [], utc(after)
    for _ in range(count):
        at = cron.next_time(expression, zone, at)
        found.append(at.strftime("%m-%dT%H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "after", "expected"),
    [
        ("30 2 * * *", BERLIN, "2026-03-28T00:00", ["03-28T01:30", "03-29T01:00", "03-30T00:30"]),
        ("0 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29T01:00", "03-30T00:00"]),
        ("0 3 * * *", BERLIN, "2026-03-28T12:00", ["03-29T01:00", "03-30T01:00"]),
        ("0 2,3 * * *", BERLIN, "2026-03-28T12:00", ["03-29T01:00", "03-30T00:00"]),
        ("*/30 * * * *", BERLIN, "2026-03-29T00:15", ["03-29T00:30", "03-29T01:00", "03-29T01:30"]),
        ("0 * * * *", BERLIN, "2026-03-28T23:30", ["03-29T00:00", "03-29T01:00", "03-29T02:00"]),
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25T00:30", "10-26T01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25T00:30", ["10-26T01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25T01:10", ["10-26T01:30"]),
        ("0 3 * * *", BERLIN, "2026-10-24T12:00", ["10-25T02:00", "10-26T02:00"]),
        ("30 * * * *", BERLIN, "2026-10-24T23:45", ["10-25T00:30", "10-25T01:30", "10-25T02:30"]),
        ("15 2 * * *", LORD_HOWE, "2026-10-02T16:00", ["10-03T15:30", "10-04T15:15"]),
        ("0 6 * * *", "Asia/Kolkata", "2026-01-01T00:00", ["01-01T00:30", "01-02T00:30"]),
        ("0 0 29 2 *", "Etc/UTC", "2026-01-01T00:00", ["02-29T00:00"]),
        ("0 9 * * MON-FRI", "America/New_York", "2026-03-06T15:00", ["03-09T13:00", "03-10T13:00"]),
        ("0 0 L * *", "Etc/UTC", "2026-01-01T00:00", ["01-31T00:00", "02-28T00:00"]),
    ],
)
def test_times_are_those_of_debian_cron(expression, zone, after, expected):
    """A time in the spring gap comes when it ends, a doubled one once; with `*`, real time counts."""
    assert times(expression, zone, after, len(expected)) == expected


@settings(max_examples=60)
@given(
    st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 2,3 * * *", "15 */3 * * *", "0 0 * * *"]),
    st.sampled_from([BERLIN, "Africa/Cairo", LORD_HOWE, "America/New_York", "Etc/UTC"]),
    st.integers(0, 366 * 24 * 60),
)
def test_the_next_time_does_not_depend_on_who_asks_when(expression, zone, minute):
    """From any moment before it, the next time is the same; it always lies ahead."""
    after = utc("2026-01-01T00:00") + timedelta(minutes=minute)
    found = cron.next_time(expression, zone, after)
    middle = after + (found - after) / 2

    assert found > after
    assert cron.next_time(expression, zone, middle) == found


def test_a_cron_or_zone_that_cannot_be_read_has_no_time():
    """A row that another version wrote stops nothing else."""
    assert cron.next_time("61 * * * *", "Etc/UTC", NOON) is None
    assert cron.next_time("0 * * * *", "Mars/Olympus", NOON) is None


def due(schedule: Schedule = MINUTELY, *, since: datetime = NOON, open_runs: int = 0) -> Due:
    return Due(
        instance_uid="uid-a",
        namespace="acme",
        instance="greeter",
        schedule=schedule,
        fire_at=since,
        open_runs=open_runs,
        queue='{"maxAttempts":2,"maxRunSeconds":90}',
    )


def fired(found: Due, now: datetime) -> list[str]:
    return [start.request.fire_at.strftime("%dT%H:%M") for start in schedules.fire(found, now).starts]


def test_a_time_becomes_a_run():
    """The run carries the schedule, its time, its input, and the limits of the revision."""
    firing = schedules.fire(due(), NOON + timedelta(seconds=0.4))

    (start,) = firing.starts
    run = start.request
    assert (run.schedule, run.fire_at, run.input) == ("daily", NOON, SCHEDULE.input)
    assert (run.max_attempts, run.max_run_seconds, run.requested_by) == (2, 90, "schedule/daily")
    assert firing.following.fire_at == NOON + timedelta(minutes=1)
    assert (start.held, firing.cancels, firing.skipped) == (False, False, 0)


def test_two_schedulers_agree_on_everything():
    """The same schedule, moment and number of open runs give the same run, down to its id."""
    now = NOON + timedelta(seconds=0.4)
    assert schedules.fire(due(), now) == schedules.fire(due(), now)
    other = replace(due(), instance_uid="uid-b")
    assert schedules.fire(other, now).starts[0].request.id != schedules.fire(due(), now).starts[0].request.id


@pytest.mark.parametrize(
    ("policy", "late_seconds", "expected"),
    [
        (Missed.SKIP, 59, ["01T12:00"]),
        (Missed.SKIP, 600, ["01T12:10"]),
        (Missed.SKIP, 630, ["01T12:10"]),
        (Missed.LATEST, 630, ["01T12:10"]),
        (Missed.ALL, 150, ["01T12:00", "01T12:01", "01T12:02"]),
        (Missed.ALL, 600, ["01T12:07", "01T12:08", "01T12:09", "01T12:10"]),
    ],
)
def test_missed_minutes(policy, late_seconds, expected):
    """Skip fires only what is not older than a minute, Latest at most one more, All so many."""
    found = due(replace(MINUTELY, missed=policy, max_missed=3))
    assert fired(found, NOON + timedelta(seconds=late_seconds)) == expected


def test_runs_of_one_pass_are_in_the_order_of_their_times():
    """Ids sort as the times do, so that earlier times are claimed and listed as the earlier runs."""
    found = due(replace(MINUTELY, missed=Missed.ALL, max_missed=50))
    ids = [start.request.id for start in schedules.fire(found, NOON + timedelta(minutes=40)).starts]

    assert len(ids) == 41
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (Missed.SKIP, []),
        (Missed.LATEST, ["04T06:00"]),
        (Missed.ALL, ["02T06:00", "03T06:00", "04T06:00"]),
    ],
)
def test_missed_days(policy, expected):
    """After days without a scheduler, the policy says what is made up for; the next time lies ahead."""
    found = due(replace(SCHEDULE, missed=policy), since=utc("2026-03-02T06:00"))
    now = utc("2026-03-04T12:00")

    assert fired(found, now) == expected
    assert schedules.fire(found, now).following.fire_at == utc("2026-03-05T06:00")
    assert schedules.fire(found, now).skipped == 3 - len(expected)


@pytest.mark.parametrize("expression", ["* * * * *", "*/10 * * * *", "0 * * * *", "0 6 * * *", "0 6 * * 1"])
def test_years_of_missed_times_cost_little(expression):
    """However long nobody came, the latest times are found, at most maxMissed and the one of now."""
    found = due(
        replace(MINUTELY, cron=expression, missed=Missed.ALL, max_missed=100), since=utc("2020-01-06T06:00")
    )
    firing = schedules.fire(found, NOON)

    assert 100 <= len(firing.starts) <= 101
    assert firing.following.fire_at > NOON
    walked = [start.request.fire_at for start in firing.starts]
    assert [cron.next_time(expression, "Etc/UTC", at) for at in walked[:-1]] == walked[1:]


def test_one_shot():
    """It fires once, also late; a past one that is published now does not fire."""
    once = replace(SCHEDULE, cron=None, at=NOON)
    firing = schedules.fire(due(once), NOON + timedelta(hours=5))

    assert ([s.request.fire_at for s in firing.starts], firing.following) == ([NOON], None)
    assert fired(due(replace(once, missed=Missed.SKIP)), NOON + GRACE) == []
    assert schedules.first("uid-a", once, NOON - GRACE).fire_at == NOON
    assert schedules.first("uid-a", once, NOON + GRACE / 2).fire_at == NOON
    assert schedules.first("uid-a", once, NOON + GRACE) is None


def test_a_new_cron_counts_from_now():
    """Times before its publication are not its own."""
    assert schedules.first("uid-a", SCHEDULE, NOON).fire_at == utc("2026-03-02T06:00")


@pytest.mark.parametrize(
    ("overlap", "open_runs", "expected"),
    [
        (Overlap.ALLOW, 0, [False, False, False]),
        (Overlap.ALLOW, 2, [False, False, False]),
        (Overlap.SKIP, 0, [False]),
        (Overlap.SKIP, 1, []),
        (Overlap.QUEUE, 0, [False, True, True]),
        (Overlap.QUEUE, 1, [True, True, True]),
        (Overlap.QUEUE, MAX_WAITING - 1, [True]),
        (Overlap.QUEUE, MAX_WAITING, []),
        (Overlap.CANCEL_PREVIOUS, 0, [False]),
        (Overlap.CANCEL_PREVIOUS, 3, [False]),
    ],
)
def test_overlap(overlap, open_runs, expected):
    """What starts at three times at once beside so many open runs, and whether it is held."""
    found = due(replace(MINUTELY, overlap=overlap, missed=Missed.ALL), open_runs=open_runs)
    firing = schedules.fire(found, NOON + timedelta(seconds=130))

    assert [start.held for start in firing.starts] == expected
    assert firing.skipped == 3 - len(expected)
    assert firing.cancels == (overlap is Overlap.CANCEL_PREVIOUS and open_runs > 0)


def test_of_several_times_the_latest_is_kept():
    """Where only one run may start, it is for the last time."""
    for overlap in (Overlap.SKIP, Overlap.CANCEL_PREVIOUS):
        found = due(replace(MINUTELY, overlap=overlap, missed=Missed.ALL))
        assert fired(found, NOON + timedelta(seconds=130)) == ["01T12:02"]


def test_a_schedule_cancels_what_is_not_over():
    """A waiting run ends, a running one is told to stop, a finished one stays."""
    assert schedules.after_next_time(RunState.QUEUED, "daily").state is RunState.CANCELLED
    assert schedules.after_next_time(RunState.RUNNING, "daily").state is RunState.RUNNING
    assert schedules.after_next_time(RunState.SUCCEEDED, "daily") is None
    assert "schedule daily" in schedules.after_next_time(RunState.QUEUED, "daily").message


@settings(max_examples=60)
@given(st.text("abc", min_size=1, max_size=5), st.integers(1, 3600), st.integers(0, 10_000))
def test_jitter_keeps_the_order_and_is_nobodys_whim(uid, seconds, minute):
    """It is the same for whoever computes it, within its bound, and before the time that follows."""
    schedule = replace(MINUTELY, jitter_seconds=seconds)
    at = NOON + timedelta(minutes=minute)
    found = schedules.due_at(uid, schedule, at)

    assert found == schedules.due_at(uid, schedule, at)
    assert at <= found < at + timedelta(seconds=min(seconds, 60))


def test_jitter_spreads():
    """A thousand instances with one cron do not start together."""
    schedule = replace(SCHEDULE, jitter_seconds=600)
    at = utc("2026-03-02T06:00")
    waits = [(schedules.due_at(f"uid-{n}", schedule, at) - at).total_seconds() for n in range(1000)]

    assert min(waits) < 30
    assert max(waits) > 570
    assert len({int(wait) // 60 for wait in waits}) == 10


def test_a_time_whose_jitter_is_not_over_waits():
    """Of times that passed, the last is left for later while its jitter lasts."""
    schedule = replace(MINUTELY, jitter_seconds=60, missed=Missed.ALL)
    second = NOON + timedelta(minutes=1)
    now = schedules.due_at("uid-a", schedule, second) - timedelta(milliseconds=1)

    firing = schedules.fire(due(schedule), now)
    assert fired(due(schedule), now) == ["01T12:00"]
    assert firing.following.fire_at == second
    assert firing.following.due_at > now


def spec(**changes: object) -> Spec:
    return Spec.model_validate({"name": "daily", "cron": "0 6 * * *", **changes})


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        ({"cron": "0 6 * * * *"}, "cron", "must be five cron fields"),
        ({"cron": "@every 5m"}, "cron", "must be five cron fields"),
        ({"cron": "60 6 * * *"}, "cron", "has a bad minute field"),
        ({"cron": "0 6 * * FRIDAY"}, "cron", "has a bad day-of-week field"),
        ({"cron": "0 6 30 2 *"}, "cron", "has a bad day-of-month field"),
        ({"cron": "0 6 */31 * MON#5"}, "cron", "never comes"),
        ({"timeZone": "Mars/Olympus"}, "timeZone", "there is no time zone Mars/Olympus"),
        ({"timeZone": "../../etc/passwd"}, "timeZone", "there is no time zone"),
        ({"timeZone": "America"}, "timeZone", "there is no time zone"),
        ({"timeZone": "/etc/localtime"}, "timeZone", "there is no time zone"),
        ({"cron": None, "at": "tomorrow"}, "at", "must be a time as in RFC 3339"),
        ({"cron": None, "at": "2026-12-01T06:00:00"}, "at", "must be a time as in RFC 3339"),
        ({"cron": None, "at": "2026-02-30T06:00:00Z"}, "at", "must be a time as in RFC 3339"),
        ({"input": {"text": "x" * 70_000}}, "input", "is larger than 65536 bytes"),
    ],
)
def test_what_is_refused(changes, path, words):
    """The field is named, and the sentence says what is wrong; what is refused is not read."""
    found = list(schedules.problems([spec(), spec(**changes)]))

    assert [p.path for p in found] == [f"spec.schedules[1].{path}"]
    assert words in found[0].message
    assert [s.name for s in schedules.read([spec(**changes)])] == []


def test_a_good_schedule_is_read():
    """What the spec says is what the record holds."""
    wish = spec(cron=None, at="2026-12-01T06:00:00+01:00", overlap="Queue", suspend=True, input={"ä": 1})
    (found,) = schedules.read([wish])

    assert (found.at, found.overlap, found.suspended) == (utc("2026-12-01T05:00"), Overlap.QUEUE, True)
    assert found.input == '{"ä":1}'.encode()
    assert list(schedules.problems([wish])) == []
