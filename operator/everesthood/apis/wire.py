"""What the gateway and a worker say to each other: JSON over HTTP, one struct a message.

A worker sends only what it did and what it wants; who it is comes from its token. JSON values of
users travel as `msgspec.Raw`, so that the gateway passes them on without reading them.
"""

from typing import Final, Literal

import msgspec

WORK_PATH: Final = "/v1/work"
HEARTBEAT_PATH: Final = "/v1/heartbeat"
WATCH_PATH: Final = "/v1/watch"
PROGRAM_PATH: Final = "/v1/program"
QUEUE_PATH: Final = "/v1/queue"
LEASE_PATH: Final = "/v1/lease"
HOLD_PATH: Final = "/v1/hold"
OUTPUTS_PATH: Final = "/v1/outputs"
CHILD_PATH: Final = "/v1/child"

EMPTY: Final = msgspec.Raw(b"null")


class Message(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a worker says; an unknown field is refused, so that nothing that it hands in is dropped unread."""


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the gateway says; an unknown field is passed over: workers may be older than their gateway."""


class StepRecord(Message, frozen=True):
    """A step as the record keeps it: started (only where a repeat would do harm) or over."""

    name: str
    state: Literal["started", "succeeded", "skipped", "failed"]
    output: msgspec.Raw = EMPTY
    reason: str = ""
    message: str = ""
    tries: int = 1
    started_at: float = 0.0
    """Seconds since the epoch, by the worker's clock: for people, never for decisions."""
    finished_at: float = 0.0
    is_held_back: bool = False
    """The output is not here, since a claim must stay small: it is to be fetched."""


class LogLine(Message, frozen=True):
    """One line of a run's log."""

    run: str
    fence: int
    at: float
    level: Literal["debug", "info", "warning", "error"]
    message: str
    step: str = ""


class Checkpoint(Message, frozen=True):
    """Steps of a run that is still going on."""

    run: str
    fence: int
    steps: tuple[StepRecord, ...]


class Ask(Message, frozen=True):
    """A question to a person. Asked again with the same step, it stays as it was asked first."""

    step: str
    message: str
    deadline_seconds: int
    on_reject: Literal["Fail", "Continue"] = "Fail"


class Finish(Message, frozen=True):
    """The end of an attempt: what the run came to, with the steps not yet checkpointed."""

    run: str
    fence: int
    outcome: Literal["succeeded", "failed", "ambiguous", "cancelled", "released", "waiting"]
    """`released`: the worker stops and hands the run back; it starts again at its last checkpoint.
    `waiting`: nothing can go on before a person has decided; it starts again then."""
    steps: tuple[StepRecord, ...] = ()
    output: msgspec.Raw = EMPTY
    reason: str = ""
    message: str = ""
    transient: bool = False
    """Another attempt may help; said only of agents whose template asks for more attempts."""
    retry_after_seconds: float | None = None
    """How long whoever refused asked to wait, if they did."""
    asks: tuple[Ask, ...] = ()
    """What the run waits for."""


class WorkRequest(Message, frozen=True):
    """Hand in what is done and claim up to `want` runs, in one call."""

    want: int = 0
    finished: tuple[Finish, ...] = ()
    checkpoints: tuple[Checkpoint, ...] = ()
    logs: tuple[LogLine, ...] = ()
    settle_bell: bool = False
    """The worker found nothing: forget the bell first, then claim, so that no bell falls between."""
    holds: int | None = None
    """How many runs the worker holds, beside those of `finished`: said by one that was asked to leave."""
    leaves: bool = False
    """The worker knows that it is to leave, and will never claim again."""


class KeptStep(StepRecord, frozen=True, forbid_unknown_fields=False):
    """A checkpoint that comes back from the record."""


class Assignment(Answer, frozen=True):
    """A run that the worker now holds until `lease_seconds` pass without a heartbeat."""

    run: str
    fence: int
    attempt: int
    input: msgspec.Raw
    request_id: str
    seconds_left: float
    """How long the run as a whole may still take, by the record's clock: a worker's may be wrong."""
    lease_seconds: int
    steps: tuple[KeptStep, ...] = ()
    """Checkpoints of earlier attempts, in the order in which they were written."""


class OutputsRequest(Message, frozen=True):
    """Ask for outputs that were held back from the assignment of a run that the worker holds."""

    run: str
    fence: int
    steps: tuple[str, ...]


class StepOutput(Answer, frozen=True):
    """The output of one step."""

    step: str
    output: msgspec.Raw


class OutputsReply(Answer, frozen=True):
    """Some of the outputs, at least one: ask again for the rest."""

    outputs: tuple[StepOutput, ...]


class ChildRequest(Message, frozen=True):
    """Have a run of another instance for a tool call of a held run; the same call always is the same run."""

    run: str
    fence: int
    step: str
    """Checkpoint of the call, which is the run's idempotency key."""
    instance: str
    input: msgspec.Raw
    seconds: int
    """What is left of the caller's time: the run gets no more."""


class ChildReply(Answer, frozen=True):
    """Where that run is: asked for again as long as it is not over."""

    run: str
    state: str
    is_over: bool
    output: msgspec.Raw = EMPTY
    message: str = ""


class Held(Message, frozen=True):
    """A run that the worker believes it holds."""

    run: str
    fence: int


class WorkReply(Answer, frozen=True):
    """Runs to start, and runs of the request that are not the worker's any more."""

    assignments: tuple[Assignment, ...] = ()
    lost: tuple[str, ...] = ()
    next_due_in: float | None = None
    """Seconds until the queue has a due run again, as far as that is known and worth an alarm."""
    denied: str = ""
    """Level whose limit kept due runs back: platform, organization, template, instance or credential."""
    leave: Literal["no", "offer", "yes"] = "no"
    """More workers than needed: offer by saying how many runs you hold; or claim no more and finish those."""


class HeartbeatRequest(Message, frozen=True):
    """Renew the leases of all held runs."""

    held: tuple[Held, ...]


class HeartbeatReply(Answer, frozen=True):
    """Runs to stop: lost to another attempt, or cancelled by a person."""

    lost: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()


class WatchReply(Answer, frozen=True):
    """Whether a run of the instance may have been cancelled: then a heartbeat says which."""

    changed: bool = False


class Program(Answer, frozen=True):
    """What a worker executes: one revision for one instance."""

    instance_uid: str
    namespace: str
    instance: str
    revision: str
    template: msgspec.Raw
    """AgentTemplateSpec as JSON."""
    config: msgspec.Raw
    slots: dict[str, list[str]]
    """Bound credential slots and the hosts that each may be sent to."""
    internal_hosts: tuple[str, ...]
    """Hosts inside the cluster that the platform lets agents call, `host:port`."""


class QueueLease(Answer, frozen=True):
    """How the worker reaches its queue. The password is derived, never stored."""

    host: str
    port: int
    user: str
    password: str
    prefix: str
    queue: str
    tls: bool = False
    ca: str = ""
    """Certificate authority of the broker as PEM; empty means those of the system."""


class LeaseRequest(Message, frozen=True):
    """Ask for the credential bound to a slot."""

    slot: str


class HoldRequest(Message, frozen=True):
    """The provider of the credential bound to a slot asked to wait."""

    slot: str
    seconds: float


class HoldReply(Answer, frozen=True):
    """The credential is held for all who bind it."""

    seconds: float


class CredentialLease(Answer, frozen=True):
    """A credential's value, for memory only."""

    type: Literal["Bearer", "Header", "Basic"]
    value: str
    header: str = ""
    hosts: tuple[str, ...] = ()
    ttl_seconds: int = 300
