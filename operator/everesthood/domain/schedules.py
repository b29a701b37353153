"""Schedules: when they are due, which passed times are made up for, what an earlier run means for a new one.

Pure: the same schedule, moment and number of open runs give whoever asks the same answer.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final, assert_never

from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1 import instance as api
from everesthood.apis.v1alpha1.template import QueueSpec
from everesthood.domain import cron
from everesthood.domain.errors import Problem
from everesthood.domain.run_ids import RANDOM_BYTES, uuid7
from everesthood.domain.runs import Next, RunId, RunRequest, RunRetry, RunState, after_cancel

GRACE: Final = timedelta(seconds=60)
"""A time is missed when nobody came to fire it for longer than that."""
MAX_WAITING: Final = 100
"""Runs of one schedule that may wait for an earlier one under `overlap: Queue`."""
INPUT_BYTES: Final = 65_536

HELD: Final = Next(
    state=RunState.QUEUED,
    reason=Reason.WAITS_FOR_EARLIER,
    message="Waits until the schedule's earlier runs are over.",
)
"""What people read at a run that waits so."""

_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_WINDOWS: Final = (timedelta(hours=2), timedelta(days=5), timedelta(days=200))
_FRESH: Final = 2
"""Times that can lie within the grace: cron knows no seconds."""


class Overlap(StrEnum):
    """What happens at a time at which an earlier run of the schedule is not over."""

    ALLOW = "Allow"
    """Both run."""
    SKIP = "Skip"
    """The time is skipped."""
    QUEUE = "Queue"
    """The new run is accepted and starts when the earlier ones are over."""
    CANCEL_PREVIOUS = "CancelPrevious"
    """The earlier runs are cancelled and the new one starts."""


class Missed(StrEnum):
    """Which times are made up for that nobody fired in time."""

    SKIP = "Skip"
    """None."""
    LATEST = "Latest"
    """The last one, unless the next has come already."""
    ALL = "All"
    """All, or the latest `max_missed`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as the record holds it."""

    name: str
    cron: str | None
    time_zone: str
    at: datetime | None
    overlap: Overlap
    missed: Missed
    max_missed: int
    jitter_seconds: int
    suspended: bool
    input: bytes
    """JSON."""

    @property
    def timing(self) -> tuple[object, ...]:
        """Return what the fire times follow from: when it changes, they are computed anew."""
        return self.cron, self.time_zone, self.at, self.jitter_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The next time of a schedule: nominal, and with its jitter."""

    fire_at: datetime
    due_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A schedule whose time has come, with what firing it must know."""

    instance_uid: str
    namespace: str
    instance: str
    schedule: Schedule
    fire_at: datetime
    """The earliest time that was not dealt with."""
    open_runs: int
    """Runs of the schedule that are not over."""
    queue: str | None = None
    """`queue` of the current revision as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run to accept; one that is `held` waits until the schedule's earlier runs are over."""

    request: RunRequest
    held: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Firing:
    """What becomes of a due schedule."""

    starts: tuple[Start, ...] = ()
    cancels: bool = False
    """The schedule's open runs are to be cancelled first."""
    skipped: int = 0
    """Times that get no run because of `missed` or `overlap`."""
    following: Planned | None = None


def problems(schedules: Sequence[api.Schedule]) -> Iterator[Problem]:
    """Yield what is wrong with schedules by themselves."""
    for index, schedule in enumerate(schedules):
        for field, message in _problems(schedule):
            yield Problem(f"spec.schedules[{index}].{field}", message)


def _problems(schedule: api.Schedule) -> Iterator[tuple[str, str]]:
    if cron.zone(schedule.time_zone) is None:
        names = "names are those of the IANA database, such as Europe/Berlin"
        yield "timeZone", f"there is no time zone {schedule.time_zone}; {names}"
    if schedule.cron is not None and (wrong := cron.problem(schedule.cron)):
        yield "cron", wrong
    if schedule.at is not None and _moment(schedule.at) is None:
        yield "at", "must be a time as in RFC 3339, such as 2026-12-01T06:00:00Z"
    if len(_json(schedule.input)) > INPUT_BYTES:
        yield "input", f"is larger than {INPUT_BYTES} bytes"


def _moment(text: str) -> datetime | None:
    if not _TIMESTAMP.fullmatch(text):
        return None
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def read(schedules: Iterable[api.Schedule]) -> tuple[Schedule, ...]:
    """Return schedules of a spec as the record holds them, without those that are broken."""
    return tuple(_read(schedule) for schedule in schedules if next(_problems(schedule), None) is None)


def _read(schedule: api.Schedule) -> Schedule:
    return Schedule(
        name=schedule.name,
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        at=None if schedule.at is None else _moment(schedule.at),
        overlap=Overlap(schedule.overlap),
        missed=Missed(schedule.missed),
        max_missed=schedule.max_missed,
        jitter_seconds=schedule.jitter_seconds,
        suspended=schedule.suspend,
        input=_json(schedule.input),
    )


def first(instance_uid: str, schedule: Schedule, now: datetime) -> Planned | None:
    """Return the first time of a new or changed schedule; a one-shot of just now still counts."""
    after = now if schedule.at is None else now - GRACE
    return _planned(instance_uid, schedule, next_time(schedule, after))


def next_time(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first time after a moment, without jitter; None when there is none."""
    if schedule.cron is None:
        return schedule.at if schedule.at is not None and schedule.at > after else None
    return cron.next_time(schedule.cron, schedule.time_zone, after)


def _planned(instance_uid: str, schedule: Schedule, fire_at: datetime | None) -> Planned | None:
    if fire_at is None:
        return None
    return Planned(fire_at=fire_at, due_at=due_at(instance_uid, schedule, fire_at))


def due_at(instance_uid: str, schedule: Schedule, fire_at: datetime) -> datetime:
    """Return a time with its jitter: the same for whoever computes it, and before the time that follows."""
    if not schedule.jitter_seconds:
        return fire_at
    room = timedelta(seconds=schedule.jitter_seconds)
    following = next_time(schedule, fire_at)
    if following is not None:
        room = min(room, following - fire_at)
    share = int.from_bytes(_digest(instance_uid, schedule.name, fire_at)[:4], "big") / 2**32
    return fire_at + timedelta(milliseconds=int(room / timedelta(milliseconds=1) * share))


def _digest(instance_uid: str, name: str, fire_at: datetime) -> bytes:
    return hashlib.sha256(f"{instance_uid}/{name}/{fire_at.timestamp():.6f}".encode()).digest()


def fire(due: Due, now: datetime) -> Firing:
    """Return what becomes of a schedule whose time has come."""
    times = _recent(due.schedule, due.fire_at, now)
    if times and due_at(due.instance_uid, due.schedule, times[-1]) > now:
        following: datetime | None = times.pop()
    else:
        following = next_time(due.schedule, times[-1] if times else now)
    wanted = _made_up(due, times, now)
    chosen, held = _beside(due, wanted)
    return Firing(
        starts=tuple(
            # A millisecond apart, since runs go by their ids.
            Start(request=_request(due, time, now + timedelta(milliseconds=place)), held=place >= held)
            for place, time in enumerate(chosen)
        ),
        cancels=bool(chosen and due.open_runs and due.schedule.overlap is Overlap.CANCEL_PREVIOUS),
        skipped=len(times) - len(chosen),
        following=_planned(due.instance_uid, due.schedule, following),
    )


def _recent(schedule: Schedule, since: datetime, now: datetime) -> list[datetime]:
    """Return the last times from `since` to now, as many as can matter, without a walk through years."""
    most = schedule.max_missed + _FRESH
    before = since - timedelta(microseconds=1)
    for window in _WINDOWS:
        start = max(before, now - window)
        times = list(_between(schedule, start, now))
        if len(times) >= most or start == before:
            return times[-most:]
    return list(_between(schedule, before, now))[-most:]


def _between(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
    found = next_time(schedule, after)
    while found is not None and found <= until:
        yield found
        found = next_time(schedule, found)


def _made_up(due: Due, times: Sequence[datetime], now: datetime) -> Sequence[datetime]:
    """Return the times that the `missed` policy wants fired, those that are not missed among them."""
    schedule = due.schedule
    missed = [time for time in times if due_at(due.instance_uid, schedule, time) <= now - GRACE]
    fresh = list(times[len(missed) :])
    match schedule.missed:
        case Missed.SKIP:
            return fresh
        case Missed.LATEST:
            return fresh or missed[-1:]
        case Missed.ALL:
            return missed[-schedule.max_missed :] + fresh
        case _:
            assert_never(schedule.missed)


def _beside(due: Due, wanted: Sequence[datetime]) -> tuple[Sequence[datetime], int]:
    """Return the times that get a run beside the open ones, and from which place on runs are held."""
    match due.schedule.overlap:
        case Overlap.ALLOW:
            return wanted, len(wanted)
        case Overlap.SKIP:
            return ([] if due.open_runs else wanted[-1:]), 1
        case Overlap.CANCEL_PREVIOUS:
            return wanted[-1:], 1
        case Overlap.QUEUE:
            return wanted[: max(0, MAX_WAITING - due.open_runs)], int(not due.open_runs)
        case _:
            assert_never(due.schedule.overlap)


def _request(due: Due, fire_at: datetime, now: datetime) -> RunRequest:
    limits = _limits(due.queue)
    name = due.schedule.name
    # Not random, so that two schedulers that meet even agree on the id.
    randomness = _digest(due.instance_uid, name, fire_at)[:RANDOM_BYTES]
    run = RunId(str(uuid7(now=now, randomness=randomness)))
    return RunRequest(
        id=run,
        namespace=due.namespace,
        instance=due.instance,
        instance_uid=due.instance_uid,
        input=due.schedule.input,
        requested_by=actor(name),
        request_id=run,
        max_attempts=limits.max_attempts,
        max_run_seconds=limits.max_run_seconds,
        retry=_retry(limits),
        schedule=name,
        fire_at=fire_at,
    )


@lru_cache(maxsize=1000)
def _limits(queue: str | None) -> QueueSpec:
    return QueueSpec() if queue is None else QueueSpec.model_validate_json(queue)


def _retry(limits: QueueSpec) -> RunRetry:
    if limits.retry is None:
        return RunRetry()
    return RunRetry(
        max_attempts=limits.retry.max_attempts,
        initial_seconds=limits.retry.initial_seconds,
        max_seconds=limits.retry.max_seconds,
    )


def actor(name: str) -> str:
    """Return who asks for the runs of a schedule, as people read it."""
    return f"schedule/{name}"


def after_next_time(state: RunState, name: str) -> Next | None:
    """Return what an earlier run becomes when its schedule cancels it; None when it is over."""
    return after_cancel(state, f"schedule {name}, whose next time came")
