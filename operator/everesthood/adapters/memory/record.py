"""The record as a few dictionaries: what PostgreSQL is in a cluster, for tests, under the same contract.

One `Record` is shared by the views `runs`, `work`, `clock`, `registry` and `gateway`, as the tables are.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Unavailable
from everesthood.domain.runs import FINAL, Next, Run, RunId, RunRequest, RunState, deadline
from everesthood.domain.schedules import Planned, Schedule
from everesthood.usecases.ports.record import AuditEntry, StoredLine, StoredStep
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
)

HELD: Final = datetime.max.replace(tzinfo=UTC)
"""When a run is due that waits for earlier ones of its schedule."""


def utc_now() -> datetime:
    """Return the time as it is."""
    return datetime.now(UTC)


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
    steps: dict[str, StoredStep] = field(default_factory=dict)
    log: list[StoredLine] = field(default_factory=list)

    @property
    def deadline_at(self) -> datetime | None:
        """Return when the run is out of time."""
        return deadline(started_at=self.started_at, max_run_seconds=self.request.max_run_seconds)

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
        self.credentials: dict[str, CredentialRow] = {}
        self.schedules: dict[tuple[str, str], ScheduleRow] = {}
        self.rows: dict[RunId, RunRow] = {}
        self.idempotency: dict[tuple[str, str], tuple[bytes, RunId]] = {}
        self.audit: list[AuditEntry] = []
        self.duties: dict[str, asyncio.Lock] = {}
        self.run_changed = Topic()
        self.registry_changed = Topic()
        self.queue_changed = Topic()
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
        due_at=row.due_at if row.state is RunState.QUEUED and row.due_at != HELD else None,
        priority=asked.priority,
        expires_at=row.expires_at,
        replay_of=asked.replay_of,
        template=row.template,
        labels=asked.labels,
    )
