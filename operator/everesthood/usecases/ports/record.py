"""The record of runs: PostgreSQL in a cluster, a dictionary in tests, under the same contract."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, Protocol

from everesthood.apis.wire import (
    HeartbeatReply,
    HeartbeatRequest,
    OutputsReply,
    OutputsRequest,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.limits import Denial, Shared
from everesthood.domain.runs import GRACE_SECONDS, Run, RunId, RunRequest, RunState
from everesthood.domain.schedules import Schedule
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedRevision

OUTLOOK_SECONDS: Final = 60.0
"""How far ahead a waiting worker is told of the next due run; it looks again sooner than that anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """A durably accepted run."""

    run: RunId
    ring: tuple[str, str] | None
    """(instance uid, revision) whose bell is to be rung; None for a repeat or with nobody to wake."""
    repeated: bool = False
    """The Idempotency-Key was seen before with the same request; `run` is the earlier run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceTarget:
    """What accepting a run must know of an instance."""

    uid: str
    namespace: str
    name: str
    suspended: bool
    current_revision: str | None
    template_spec: bytes | None
    """AgentTemplateSpec of the current revision as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSeat:
    """Who a worker is, as its token and its pod's owners say."""

    instance_uid: str
    namespace: str
    instance: str
    revision: str
    pod: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs of one namespace to list, newest first."""

    namespace: str
    instance: str | None = None
    states: frozenset[RunState] = frozenset()
    reason: str | None = None
    template: str | None = None
    revision: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these, with these values."""
    replayed: bool | None = None
    """Whether another run replays it."""
    text: str | None = None
    """Somewhere in the JSON of the input or the output, in whatever case."""
    created_from: datetime | None = None
    created_to: datetime | None = None
    """Accepted before this."""
    before: str | None = None
    """Cursor: the id of the last run of the page before."""
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of the runs that a filter leaves. It may be short, even empty, although more follow."""

    runs: Sequence[Run]
    next: str | None
    """Cursor of the next page; None at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStep:
    """A step of a run, for people; `seq` grows within a run with each change of a step."""

    seq: int = field(default=0, compare=False)
    name: str
    state: Literal["started", "succeeded", "skipped", "failed"]
    output: bytes | None
    """JSON; None where it is larger than a list shows."""
    size: int = field(default=0, compare=False)
    """Bytes of the output as JSON."""
    reason: str
    message: str
    tries: int
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLine:
    """A line of a run's log; `seq` grows within a run."""

    seq: int
    at: datetime
    level: str
    step: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSchedule:
    """A published schedule and how far it is."""

    schedule: Schedule
    suspended: bool
    """It does not fire, because it, its instance or the lack of a good revision holds it."""
    next_fire_at: datetime | None
    """None when no time is to come."""
    last_fire_at: datetime | None
    """The last time that got a run."""


class RunStore(Protocol):
    """Runs, for the web API."""

    async def target(self, namespace: str, instance: str) -> InstanceTarget | None:
        """Return the published instance of that name."""
        ...

    async def accept(self, request: RunRequest) -> Accepted:
        """Commit the run; when this returns, it is durable.

        Raises:
            Conflict: the idempotency key was used with another request, or the organisation is stopped.
            NotFound: the instance is gone.
            Unavailable: the record cannot be reached; nothing was accepted, or a repeat with the
                same idempotency key finds out.
        """
        ...

    async def get(self, namespace: str, run: RunId) -> Run | None:
        """Return the run if it is in that namespace."""
        ...

    async def list(self, wanted: RunFilter) -> Page:
        """Return a page, newest first; inputs and outputs are left empty.

        A bounded number of runs is looked at, so a page may be short of what was asked for.
        """
        ...

    async def kept_back(self, run: Run) -> Denial | None:
        """Return which limit keeps a due run back at this moment, None when none does."""
        ...

    async def steps(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredStep]:
        """Return steps with a greater `seq`, in the order of their last change."""
        ...

    async def output(self, run: RunId, step: str) -> bytes | None:
        """Return the output of one step, however large; None if there is no such step."""
        ...

    async def log(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredLine]:
        """Return lines with a greater `seq`."""
        ...

    async def cancel(
        self,
        namespace: str,
        run: RunId,
        actor: str,
        request_id: str,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Run | None:
        """Cancel a waiting run now, mark a running one so that its worker stops; None if not there.

        `ClockStore.rescue` ends one that runs on after its grace. Child runs go with it, in all stores.
        """
        ...

    async def schedules(self, instance_uid: str) -> Sequence[StoredSchedule]:
        """Return the schedules of an instance by name."""
        ...

    def watch(self, run: RunId) -> AsyncIterator[None]:
        """Yield whenever the run, its steps or its log may have changed."""
        ...


class WorkStore(Protocol):
    """Runs, for the gateway."""

    async def work(self, seat: WorkerSeat, request: WorkRequest) -> WorkReply:
        """Write what was done, then claim, in one transaction. Stale fences are ignored and named.

        Queues that something limits claim in a transaction of their own after it. The reply says when to
        come back to a worker that a limit kept back, or that settled its bell and found too little.
        """
        ...

    async def heartbeat(self, seat: WorkerSeat, request: HeartbeatRequest) -> HeartbeatReply:
        """Renew leases."""
        ...

    async def outputs(self, seat: WorkerSeat, request: OutputsRequest) -> OutputsReply:
        """Return those of the named outputs that fit into one answer; none where the run is not held."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DueBell:
    """A queue with due work that nobody claimed."""

    instance_uid: str
    revision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOwner:
    """An instance whose broker user should exist, or no longer."""

    instance_uid: str
    wanted: bool
    ready: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """What one transaction did with due schedules."""

    schedules: int
    """Schedules that were due, fired or not."""
    started: int
    """Runs that were accepted."""
    skipped: int
    """Times that got no run because of `missed` or `overlap`."""
    cancelled: int
    """Earlier runs that were cancelled or marked so."""
    ring: tuple[tuple[str, str], ...]
    """(instance uid, revision) whose bells are to be rung."""


class ClockStore(Protocol):
    """Runs, schedules and queues, for the scheduler."""

    async def fire_schedules(self, limit: int) -> Fired:
        """Accept the runs of at most so many due schedules and plan their next times, in one transaction.

        Any number of processes may call at once: a time of a schedule gets at most one run.
        """
        ...

    async def release_held(self, limit: int) -> Sequence[tuple[str, str]]:
        """Let runs go whose schedule's earlier runs are over; return the queues to ring."""
        ...

    async def rescue(self) -> Mapping[str, int]:
        """Return expired leases to the queue or end their runs; counts by outcome.

        Cancelled runs whose grace is over end as well, whatever their workers say.
        """
        ...

    async def expire_approvals(self) -> int:
        """End questions whose deadline passed, and the runs that wait with them; return how many."""
        ...

    async def cancel_stopped(self) -> int:
        """Cancel what runs in organisations whose stop says so; return how many."""
        ...

    async def due_bells(self, older_than_seconds: float) -> Sequence[DueBell]:
        """Return queues whose oldest due, unclaimed run is older than that."""
        ...

    async def queue_owners(self) -> Sequence[QueueOwner]:
        """Return all instances, with whether their broker user should exist and is marked ready."""
        ...

    async def mark_queues(self, ready: Sequence[str], gone: Sequence[str]) -> None:
        """Mark broker users made, and deleted instances cleaned; tells the controller."""
        ...

    def lead(self, duty: str) -> AsyncIterator[bool]:
        """Yield True when this process gets the duty's lock, False once it has lost it, and so on.

        Closing the iterator gives the lock back. The consumer must not work inside the loop: it
        starts a task at True and cancels it at False.
        """
        ...

    def queue_changes(self) -> AsyncIterator[None]:
        """Yield whenever `queue_owners` may have changed. A hint: look again after a while anyway."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """Who did what to which object."""

    namespace: str
    actor: str
    action: str
    target: str
    request_id: str = ""


class GatewayStore(Protocol):
    """What the gateway must know of instances, revisions and credentials."""

    async def instance(self, uid: str) -> PublishedInstance | None:
        """Return the published instance, None once it is deleted."""
        ...

    async def revision(self, namespace: str, digest: str) -> PublishedRevision | None:
        """Return the content of a revision."""
        ...

    async def credentials(self, namespace: str, names: Collection[str]) -> Mapping[str, PublishedCredential]:
        """Return those of the named credentials that exist, by name."""
        ...

    async def queue_ready(self, uid: str) -> bool:
        """Return whether the instance's broker user exists."""
        ...

    async def hold_credential(self, namespace: str, name: str, seconds: float) -> None:
        """Start no run of any instance that binds the credential for so long; holds are never shortened."""
        ...

    async def publish_limits(self, shared: Shared) -> Sequence[str]:
        """Write what the installation allows, as far as it differs; return the scopes that changed."""
        ...

    async def asked_to_leave(self) -> frozenset[tuple[str, str]]:
        """Return (instance uid, revision) of the queues of which workers may leave."""
        ...

    async def leavers(self) -> frozenset[tuple[str, str, str]]:
        """Return (instance uid, revision, pod) of the workers that have been taken at their word."""
        ...

    async def offer_to_leave(self, seat: WorkerSeat, *, holds: int, claims: bool) -> bool:
        """Return whether a worker that holds so many runs is to leave; not more are than may.

        One that does not claim any more and holds none is noted as having left.
        """
        ...

    async def audit(self, entry: AuditEntry) -> None:
        """Write one line of the audit log."""
        ...


class ObservationStore(Protocol):
    """Credentials to look at, for the gateway's duty."""

    async def credentials_due(self, older_than_seconds: float) -> Sequence[PublishedCredential]:
        """Return credentials never looked at, or last looked at longer ago than that."""
        ...

    async def observe(self, uid: str, reason: str, fingerprint: str) -> None:
        """Write what was seen; an empty fingerprint keeps the last one. Tells the controller of a change."""
        ...
