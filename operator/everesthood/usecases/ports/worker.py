"""What executing runs needs from outside: the gateway, a way to do each step, languages, figures."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from everesthood.apis.wire import (
    ChildReply,
    ChildRequest,
    CredentialLease,
    HeartbeatReply,
    HeartbeatRequest,
    HoldReply,
    HoldRequest,
    OutputsReply,
    OutputsRequest,
    Program,
    QueueLease,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.steps import Step

Level = Literal["debug", "info", "warning", "error"]


class Gateway(Protocol):
    """The worker's only door to the record. Who the worker is comes from its token.

    Each call raises Unavailable when the gateway cannot be asked for now, and Refused when it says no.
    """

    async def program(self) -> Program:
        """Return what this worker executes."""
        ...

    async def queue(self) -> QueueLease:
        """Return how to reach this worker's queue."""
        ...

    async def work(self, request: WorkRequest) -> WorkReply:
        """Hand in what is done and claim more."""
        ...

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatReply:
        """Renew the leases of held runs."""
        ...

    async def watch(self) -> bool:
        """Wait a few seconds; True as soon as a run of the instance may have been cancelled."""
        ...

    async def outputs(self, request: OutputsRequest) -> OutputsReply:
        """Return outputs of earlier attempts that were held back from an assignment."""
        ...

    async def lease(self, slot: str) -> CredentialLease:
        """Return the credential bound to a slot."""
        ...

    async def hold(self, request: HoldRequest) -> HoldReply:
        """Hold the credential bound to a slot for all who use it."""
        ...


class Languages(Protocol):
    """CEL, templates and JSON Schema; all may take long and are called as `usecases.expressions` says."""

    def evaluate(self, expression: str, variables: Mapping[str, object]) -> object:
        """Return the JSON value of a CEL expression, or raise ExpressionFailed."""
        ...

    def render(self, text: str, variables: Mapping[str, object]) -> str:
        """Return a template with its variables filled in, or raise ExpressionFailed."""
        ...

    def check(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) for each place where the value breaks the schema."""
        ...

    def schema_problems(self, schema: Mapping[str, object]) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a JSON Schema; only one without any is safe to `check` with."""
        ...


class Journal(Protocol):
    """Where an attempt writes what it did; a closed door for an attempt that lost its run."""

    def note(self, record: StepRecord) -> None:
        """Checkpoint with the next call to the gateway."""
        ...

    async def commit(self, record: StepRecord) -> None:
        """Checkpoint, and return only once it is durable."""
        ...

    def log(self, level: Level, message: str, step: str = "") -> None:
        """Add a line to the run's log."""
        ...


def _future() -> "asyncio.Future[None]":
    return asyncio.get_running_loop().create_future()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How an attempt goes: what steps that run side by side must know of each other."""

    critical: set[str] = field(default_factory=set)
    """What is under way and must not be repeated, by the name of its checkpoint."""
    closing: "asyncio.Future[None]" = field(default_factory=_future)
    """Done once a step has failed: begin nothing more, bring to an end what is critical."""

    def close(self) -> None:
        """Say that the end has come."""
        if not self.closing.done():
            self.closing.set_result(None)

    def forget(self, step: str) -> None:
        """Take note that a step is over."""
        over = {name for name in self.critical if name == step or name.startswith(f"{step}/")}
        self.critical.difference_update(over)

    def holds_up(self, step: str) -> bool:
        """Return whether a step must not be broken off now."""
        return any(name == step or name.startswith((f"{step}/", f"{step}[")) for name in self.critical)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """All that doing one step of one run may know."""

    run: str
    attempt: int
    request_id: str
    step: Step
    fence: int = 0
    ends_at: float = math.inf
    """When the run is out of time, by the monotonic clock."""
    variables: Mapping[str, object]
    """`input`, `config`, `steps` and `run`, inside a forEach also `item` and `index`."""
    journal: Journal
    earlier: MutableMapping[str, StepRecord]
    """Checkpoints by name: of earlier attempts and, added by code steps, of this one's earlier tries."""
    course: Course


class Children(Protocol):
    """Runs of other instances that a run's agent asks for."""

    async def child(self, request: ChildRequest) -> ChildReply:
        """Have the run started, if it is not yet, and say where it is; waits a little for its end.

        Raises:
            Unavailable: it cannot be asked for now; ask again.
            Refused: there is no such run to be had.
        """
        ...


class StepRunner(Protocol):
    """Does steps."""

    async def run(self, scope: Scope) -> object:
        """Do the step once and return its output, a JSON value without any credential in it.

        Raises:
            StepFailed: it came to nothing; OutcomeUnknown if nobody knows whether it took effect.
            ExpressionFailed: an expression or a template of the step cannot be evaluated.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP call of an agent."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    credential: str | None = None
    """Slot whose value is added."""
    max_bytes: int = 1_048_576
    timeout_seconds: float = 300.0
    follow_redirects: bool = True
    is_enough: Callable[[bytes], bool] | None = None
    """Shown each part of the body as it comes; once it says so, the rest is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back; header names are lower-case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Outbound(Protocol):
    """The guarded way out of a worker."""

    async def send(self, call: Call) -> Answer:
        """Make the call.

        Raises:
            StepFailed: refused, or not sent; OutcomeUnknown if it may have arrived.
        """
        ...


class Credentials(Protocol):
    """Leased credentials, in memory only."""

    async def lease(self, slot: str) -> CredentialLease:
        """Return the slot's credential, leased anew when the last lease ran out.

        Raises:
            StepFailed: the gateway gives none; `transient` if it may later.
        """
        ...

    def redact(self, text: str) -> str:
        """Return the text with every leased value replaced."""
        ...


class WorkFigures(Protocol):
    """Counts what a worker does, and names the run in every log line below."""

    def enter_run(self, run: str, request_id: str, attempt: int) -> None:
        """Bind the run to all log lines of the calling task."""
        ...

    def run_ended(self, outcome: str, seconds: float) -> None:
        """Count a finished attempt."""
        ...

    def step_ended(self, kind: str, state: str, seconds: float) -> None:
        """Count a finished step."""
        ...

    def holding(self, running: int, waiting: int) -> None:
        """Note how many runs are held."""
        ...

    def gateway_called(self, call: str, outcome: Literal["ok", "failed"], seconds: float) -> None:
        """Count a call to the gateway."""
        ...


Sleep = Callable[[float], Awaitable[None]]
