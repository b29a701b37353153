"""A run: its states, and what becomes of it after each thing that can happen."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NewType

from everesthood.apis.reasons import Reason

RunId = NewType("RunId", str)


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
