"""The record as a few dictionaries: what PostgreSQL is in a cluster, for tests, under the same contract.

One `Record` is shared by the views `runs`, `work`, `clock`, `registry` and `gateway`, as the tables are.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.approvals import OnReject, Verdict
from everesthood.domain.errors import Unavailable
from everesthood.domain.limits import UNLIMITED, Limits
from everesthood.domain.queues import Pause, Stop
from everesthood.domain.runs import (
    FINAL,
    GRACE_SECONDS,
    Approval,
    Next,
    Run,
    RunId,
    RunRequest,
    RunState,
    deadline,
)
from everesthood.domain.schedules import Planned, Schedule
from everesthood.usecases.ports.record import AuditEntry, StoredLine, StoredStep
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
)

HELD: Final = datetime.max.replace(tzinfo=UTC)
"""When a run is due that waits for earlier ones of its schedule."""


def utc_now() -> datetime:
    """Return the time as it is."""
    return datetime.now(UTC)


@dataclass(slots=True, kw_only=True)
class ApprovalRow:
    """A question and what became of it."""

    open: Approval
    on_reject: OnReject
    verdict: Verdict | None = None
    decided_by: str = ""


@dataclass(slots=True, kw_only=True)
class RunRow:
    """A run with all that people do not see of it."""

    request: RunRequest
    created_at: datetime
    due_at: datetime
    expires_at: datetime | None = None
    template: str | None = None
    state: RunState = RunState.QUEUED
    reason: Reason | None = None
    message: str = ""
    output: bytes | None = None
    revision: str | None = None
    attempt: int = 0
    fence: int = 0
    lease_until: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested: bool = False
    failures: int = 0
    failed_attempt: int = 0
    """The last attempt that failed and was to be tried again."""
    cancel_by: datetime | None = None
    """When a cancelled run ends, whatever its worker does."""
    approvals: dict[str, ApprovalRow] = field(default_factory=dict)
    answered: bool = False
    """A question was decided while the run did not wait."""
    steps: dict[str, StoredStep] = field(default_factory=dict)
    log: list[StoredLine] = field(default_factory=list)
    lines_said: int = 0
    steps_written: int = 0

    def write(self, step: StoredStep) -> None:
        """Keep a step; its place is that of its last change."""
        self.steps.pop(step.name, None)
        self.steps_written += 1
        self.steps[step.name] = replace(step, seq=self.steps_written, size=len(step.output or b""))

    @property
    def deadline_at(self) -> datetime | None:
        """Return when the run is out of time."""
        return deadline(started_at=self.started_at, max_run_seconds=self.request.max_run_seconds)

    def extend(self, by: timedelta) -> None:
        """Give the run more time in all, for it stood still without its doing."""
        seconds = self.request.max_run_seconds + math.ceil(by.total_seconds())
        self.request = replace(self.request, max_run_seconds=seconds)

    def take(self, request: RunRequest, now: datetime) -> None:
        """Write what a request asks for; it may take the place of an earlier one."""
        pause = request.dedupe.seconds if request.dedupe and request.dedupe.mode == "debounce" else 0
        self.request = request
        self.due_at = now + timedelta(seconds=pause)
        ttl = request.ttl_seconds
        self.expires_at = None if ttl is None else now + timedelta(seconds=ttl)

    def has_waited_too_long(self, now: datetime) -> bool:
        """Return whether the run must not start any more."""
        ends = None if self.started_at else self.expires_at
        return ends is not None and ends <= now

    def become(self, following: Next, now: datetime) -> None:
        """Write what a rule of the domain decided; a reason given before a cancellation stays."""
        keeps = following.state is RunState.CANCELLED and self.cancel_requested and self.reason is not None
        if not keeps:
            self.reason, self.message = following.reason, following.message
        self.state = following.state
        if following.state is RunState.QUEUED and following.failure_change:
            self.failed_attempt = self.attempt
        self.attempt += following.attempt_change
        self.failures += following.failure_change
        self.lease_until = None
        if following.state in FINAL:
            self.finished_at = now
        else:
            self.due_at = now + timedelta(seconds=following.pause_seconds)


@dataclass(slots=True, kw_only=True)
class InstanceRow:
    """A published instance and the state of its queue."""

    published: PublishedInstance
    pause: Pause | None = None
    queue_ready: bool = False
    deleted: bool = False


@dataclass(slots=True, kw_only=True)
class CredentialRow:
    """A published credential and what the gateway saw."""

    published: PublishedCredential
    seen: CredentialObservation | None = None
    observed_at: datetime | None = None


@dataclass(slots=True, kw_only=True)
class ScheduleRow:
    """A published schedule and how far it is."""

    schedule: Schedule
    active: bool
    planned: Planned | None
    last_fire_at: datetime | None = None


@dataclass(slots=True, kw_only=True)
class LimitRow:
    """A limit and how far it is used up."""

    limits: Limits = UNLIMITED
    weight: int = 1
    next_at: datetime | None = None
    held_until: datetime | None = None


class AuditLog(list[AuditEntry]):
    """The lines of the audit log, with the time of each."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        """Start empty."""
        super().__init__()
        self._now = now
        self.times: list[datetime] = []

    def append(self, entry: AuditEntry) -> None:
        """Add a line now."""
        super().append(entry)
        self.times.append(self._now())

    def forget_first(self, number: int) -> None:
        """Drop the oldest lines."""
        del self[:number]
        del self.times[:number]


@dataclass(slots=True, kw_only=True)
class ScaleInRow:
    """How many workers of a revision may leave, and those that do: pod → whether it holds nothing."""

    wanted: int = 0
    drains: bool = False
    asked_at: datetime
    leavers: dict[str, bool] = field(default_factory=dict)


class Topic:
    """Wakes everybody who waits for one kind of change."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._queues: set[asyncio.Queue[str]] = set()

    def tell(self, key: str) -> None:
        """Hand the key to everybody who listens now."""
        for queue in self._queues:
            queue.put_nowait(key)

    async def listen(self) -> AsyncIterator[str]:
        """Yield keys told from now on."""
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)


class Record:
    """The tables, and the clock they go by."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        """Start empty."""
        self.now = now
        self.instances: dict[str, InstanceRow] = {}
        self.revisions: dict[tuple[str, str], PublishedRevision] = {}
        self.templates: dict[str, PublishedTemplate] = {}
        self.credentials: dict[str, CredentialRow] = {}
        self.schedules: dict[tuple[str, str], ScheduleRow] = {}
        self.limits: dict[str, LimitRow] = {}
        self.kept_back: dict[str, tuple[int, datetime]] = {}
        self.scale_ins: dict[tuple[str, str], ScaleInRow] = {}
        self.rows: dict[RunId, RunRow] = {}
        self.idempotency: dict[tuple[str, str], tuple[bytes, RunId]] = {}
        self.keyed_at: dict[tuple[str, str], datetime] = {}
        self.audit = AuditLog(now)
        self.stops: dict[str, Stop] = {}
        """By namespace."""
        self.duties: dict[str, asyncio.Lock] = {}
        self.run_changed = Topic()
        self.registry_changed = Topic()
        self.queue_changed = Topic()
        self.cancelled = Topic()
        self.demanded = Topic()
        self.down = False
        """True makes every call raise Unavailable, as when PostgreSQL is away."""

    @contextmanager
    def reach(self) -> Iterator[None]:
        """Stand for the way to the server."""
        if self.down:
            raise Unavailable("The record cannot be reached.")
        yield

    def live(self, uid: str) -> InstanceRow | None:
        """Return the instance unless it is deleted."""
        row = self.instances.get(uid)
        return None if row is None or row.deleted else row

    def hands_out(self, row: InstanceRow) -> bool:
        """Return whether people let the queue hand runs out."""
        return row.pause is None and row.published.namespace not in self.stops

    def cancel(
        self, row: RunRow, reason: Reason | None, message: str, grace_seconds: float = GRACE_SECONDS
    ) -> None:
        """Mark a running run, so that its worker stops it, and tell of it."""
        row.cancel_requested, row.reason, row.message = True, reason, message
        row.cancel_by = self.now() + timedelta(seconds=grace_seconds)
        self.run_changed.tell(row.request.id)
        self.cancelled.tell(row.request.instance_uid)

    def wake(self, uid: str, revision: str | None) -> None:
        """Tell the controller of work for workers that it does not watch."""
        instance = self.live(uid)
        if instance is not None and revision in instance.published.quiet:
            self.demanded.tell(uid)

    def held(self, run: str, fence: int, instance_uid: str) -> RunRow | None:
        """Return the run if this attempt of this instance holds it."""
        row = self.rows.get(RunId(run))
        if row is None or row.request.instance_uid != instance_uid or row.fence != fence:
            return None
        return row if row.state is RunState.RUNNING else None

    def end(self, row: RunRow, following: Next) -> None:
        """Write what becomes of a run and wake who watches it."""
        row.become(following, self.now())
        self.run_changed.tell(row.request.id)


def as_run(row: RunRow, *, whole: bool = True) -> Run:
    """Return the run as people see it; a list leaves input and output out."""
    asked = row.request
    return Run(
        id=asked.id,
        namespace=asked.namespace,
        instance=asked.instance,
        instance_uid=asked.instance_uid,
        state=row.state,
        input=asked.input if whole else b"",
        output=row.output if whole else None,
        reason=row.reason,
        message=row.message,
        revision=row.revision,
        attempt=row.attempt,
        fence=row.fence,
        requested_by=asked.requested_by,
        request_id=asked.request_id,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        cancel_requested=row.cancel_requested,
        schedule=asked.schedule,
        fire_at=asked.fire_at,
        failures=row.failures,
        approvals=() if row.state in FINAL else _open(row),
        due_at=row.due_at if row.state is RunState.QUEUED and row.due_at != HELD else None,
        priority=asked.priority,
        expires_at=row.expires_at,
        replay_of=asked.replay_of,
        template=row.template,
        labels=asked.labels,
    )


def _open(row: RunRow) -> tuple[Approval, ...]:
    found = [asked.open for asked in row.approvals.values() if asked.verdict is None]
    return tuple(sorted(found, key=lambda one: (one.asked_at, one.step)))
