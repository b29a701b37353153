"""A run: its states, and what becomes of it after each thing that can happen.

The record's adapters write what these functions decide; none decides by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal, NewType, assert_never

from everesthood.apis.reasons import Reason

RunId = NewType("RunId", str)

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
HIGHEST_PRIORITY: Final = 9
LONGEST_TTL_SECONDS: Final = 2_592_000
MOST_LABELS: Final = 16
LONGEST_LABEL: Final = 63
LONGEST_WINDOW_SECONDS: Final = 604_800
GRACE_SECONDS: Final = 10
"""How long the worker of a cancelled run has to end it, unless somebody says otherwise."""
LONGEST_GRACE_SECONDS: Final = 600


class RunState(StrEnum):
    """Where a run is. All but the first three are final."""

    QUEUED = "queued"
    """Durably accepted, waiting for a worker."""
    RUNNING = "running"
    """Held by one attempt, under a lease."""
    WAITING = "waiting"
    """Waiting for a person."""
    SUCCEEDED = "succeeded"
    """Finished, with an output."""
    DEAD = "dead"
    """Failed for good; it can be looked at and replayed."""
    CANCELLED = "cancelled"
    """Stopped by a person or program, or with its instance."""
    EXPIRED = "expired"
    """Ran out of time before or while it ran."""
    AMBIGUOUS = "ambiguous"
    """Stopped where a step that must not be repeated may or may not have happened."""


FINAL = frozenset(RunState) - {RunState.QUEUED, RunState.RUNNING, RunState.WAITING}
"""Over; only a person who resolves an ambiguous run makes it go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """An open question to a person."""

    step: str
    message: str
    asked_at: datetime
    deadline_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the record holds it."""

    id: RunId
    namespace: str
    instance: str
    instance_uid: str
    state: RunState
    input: bytes
    """JSON."""
    output: bytes | None = None
    """JSON, once succeeded."""
    reason: Reason | None = None
    message: str = ""
    revision: str | None = None
    """Set at its first start; every attempt executes this one."""
    attempt: int = 0
    fence: int = 0
    requested_by: str
    request_id: str
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested: bool = False
    schedule: str | None = None
    """Schedule of the instance that it belongs to."""
    fire_at: datetime | None = None
    """Time of the schedule that it was made for; None when somebody ran the schedule by hand."""
    failures: int = 0
    """Attempts that failed; those whose worker died are not among them."""
    due_at: datetime | None = None
    """When it may start, while it is queued."""
    priority: int = 0
    expires_at: datetime | None = None
    """When it is over if nobody has started it by then."""
    replay_of: RunId | None = None
    replayed_by: RunId | None = None
    """The latest run that replays it."""
    template: str | None = None
    waits_for: str = ""
    """What keeps a due run back, as far as somebody asked for it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    approvals: tuple[Approval, ...] = ()
    """What it asks people, while it is not over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRetry:
    """How often and when a run whose attempt failed is tried again."""

    max_attempts: int = 1
    initial_seconds: int = 10
    max_seconds: int = 600


DedupeMode = Literal["simple", "throttle", "debounce"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedupe:
    """Which requests of an instance are one run: those with the same key, as long as the mode says.

    simple: while a run of the key is not over, it is the answer. throttle: a run of the key accepted within
    the last seconds is the answer. debounce: a run starts that many seconds after the last request; until it
    starts, each request takes the place of the one before.
    """

    key: str
    mode: DedupeMode = "simple"
    seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A wish for a run, already validated; what is accepted is durable."""

    id: RunId
    namespace: str
    instance: str
    instance_uid: str
    input: bytes
    requested_by: str
    request_id: str
    max_attempts: int
    max_run_seconds: int
    idempotency_key: str | None = None
    request_digest: bytes = b""
    """Digest of what the caller asked for, to tell a repeat from a clash under one key."""
    schedule: str | None = None
    fire_at: datetime | None = None
    retry: RunRetry = RunRetry()
    priority: int = 0
    """From 0 to 9; the greatest starts first."""
    ttl_seconds: int | None = None
    """Longest wait for the first start."""
    dedupe: Dedupe | None = None
    replay_of: RunId | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


Outcome = Literal["succeeded", "failed", "ambiguous", "cancelled", "released", "waiting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """What a run is to become."""

    state: RunState
    reason: Reason | None = None
    message: str = ""
    attempt_change: int = 0
    failure_change: int = 0
    pause_seconds: float = 0.0
    """How long it waits before it may start, when it is queued again."""


def deadline(*, started_at: datetime | None, max_run_seconds: int) -> datetime | None:
    """Return when the run as a whole is out of time; a run that never started has all of it."""
    return None if started_at is None else started_at + timedelta(seconds=max_run_seconds)


def after_finish(outcome: Outcome, reason: str = "", message: str = "", *, cancel_requested: bool) -> Next:
    """Return what a running run becomes when its worker hands it in."""
    match outcome:
        case "succeeded":
            return Next(state=RunState.SUCCEEDED, reason=Reason.SUCCEEDED, message=message)
        case "failed" if _reason(reason) is Reason.RUN_TIMED_OUT:
            return Next(state=RunState.EXPIRED, reason=Reason.RUN_TIMED_OUT, message=message)
        case "failed":
            why = _reason(reason) or Reason.STEP_FAILED
            return Next(state=RunState.DEAD, reason=why, message=message, failure_change=1)
        case "ambiguous":
            return Next(state=RunState.AMBIGUOUS, reason=Reason.OUTCOME_UNKNOWN, message=message)
        case "released" | "waiting" if not cancel_requested:
            return _after_handing_back(outcome, _reason(reason), message)
        case "cancelled" | "released" | "waiting":
            return Next(state=RunState.CANCELLED, reason=Reason.CANCELLED, message=message)
        case _:
            assert_never(outcome)


def _after_handing_back(outcome: Outcome, why: Reason | None, message: str) -> Next:
    """Return what a run becomes that goes on later; it has used up no attempt."""
    if outcome == "released":
        return Next(state=RunState.QUEUED, attempt_change=-1, reason=why, message=message)
    reason = Reason.WAITS_FOR_APPROVAL
    return Next(state=RunState.WAITING, reason=reason, message=message, attempt_change=-1)


def after_failure(
    failed: Next, *, failures: int, retry: RunRetry, pause_seconds: float, seconds_left: float | None
) -> Next:
    """Return what a run becomes whose attempt failed for a reason that may pass: tried again, or dead.

    `failures` are those before. A pause that ends after the run's deadline is not begun.
    """
    is_late = seconds_left is not None and pause_seconds >= seconds_left
    if failures + failed.failure_change >= retry.max_attempts or is_late:
        return failed
    return replace(failed, state=RunState.QUEUED, pause_seconds=pause_seconds)


def retry_pause(retry: RunRetry, failures: int, retry_after_seconds: float | None, *, chance: float) -> float:
    """Return how long to wait after a failure with `failures` before it; `chance` is from 0 to 1.

    Exponential with full jitter, or a little after the time that was asked for.
    """
    if retry_after_seconds is not None:
        return min(retry_after_seconds, LONGEST_RETRY_AFTER_SECONDS) + chance * retry.initial_seconds
    return chance * min(retry.max_seconds, retry.initial_seconds * 2.0 ** min(failures, 30))


def _reason(said: str) -> Reason | None:
    return Reason(said) if said in Reason._value2member_map_ else None


def after_lease_expiry(
    *, attempt: int, max_attempts: int, cancel_requested: bool, deadline_at: datetime | None, now: datetime
) -> Next:
    """Return what a running run becomes when its worker has been silent for too long.

    `attempt` counts attempts that did not end in a failure: those are counted for themselves.
    """
    if cancel_requested:
        return Next(state=RunState.CANCELLED, reason=Reason.CANCELLED)
    if deadline_at is not None and deadline_at <= now:
        return after_deadline()
    if attempt >= max_attempts:
        said = f"The worker died or fell silent in each of {attempt} attempts."
        return Next(state=RunState.DEAD, reason=Reason.TOO_MANY_ATTEMPTS, message=said)
    return Next(state=RunState.QUEUED, reason=Reason.LEASE_LOST)


def after_deadline() -> Next:
    """Return what a started run becomes when nobody may work on it any longer."""
    said = "The run took longer than the template's queue.maxRunSeconds."
    return Next(state=RunState.EXPIRED, reason=Reason.RUN_TIMED_OUT, message=said)


def after_waiting() -> Next:
    """Return what a run becomes that nobody started within its ttlSeconds."""
    said = "Nobody started the run within its ttlSeconds."
    return Next(state=RunState.EXPIRED, reason=Reason.WAITED_TOO_LONG, message=said)


def after_cancel(state: RunState, actor: str) -> Next | None:
    """Return what a run becomes when somebody cancels it; None when it is over and stays as it is.

    A running run stays running, marked, until its worker has stopped.
    """
    if state in FINAL:
        return None
    becomes = state if state is RunState.RUNNING else RunState.CANCELLED
    return Next(state=becomes, reason=Reason.CANCELLED, message=f"Cancelled by {actor}.")


def lets_go(state: RunState, *, cancel_requested: bool) -> bool:
    """Return whether a run will never take up what the runs come to that it has other instances do."""
    return cancel_requested or state in (RunState.CANCELLED, RunState.EXPIRED)


def after_parent(state: RunState, parent: RunId, parent_state: RunState) -> Next | None:
    """Return what a run becomes when the run that waits for it lets go of it; None when it is over."""
    what = "ran out of time" if parent_state is RunState.EXPIRED else "was cancelled"
    cancelled = after_cancel(state, f"run/{parent}")
    if cancelled is None:
        return None
    said = f"Run {parent}, which waited for this one, {what}."
    return Next(state=cancelled.state, reason=Reason.PARENT_ENDED, message=said)


def after_removal(state: RunState) -> Next | None:
    """Return what a run becomes when its instance is deleted; None when it is over."""
    cancelled = after_cancel(state, "the deletion of the instance")
    if cancelled is None:
        return None
    said = "The AgentInstance was deleted."
    return Next(state=cancelled.state, reason=Reason.INSTANCE_DELETED, message=said)
