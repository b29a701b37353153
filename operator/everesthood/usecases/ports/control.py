"""Control: what people decide about runs, queues and organisations, and how a worker hears of it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from everesthood.domain.approvals import Decision
from everesthood.domain.doubts import Resolution
from everesthood.domain.queues import QueueView, Stop
from everesthood.domain.runs import RunId

Ring = tuple[str, str]
"""(instance uid, revision) whose bell is to be rung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who does something, for the audit log."""

    name: str
    request_id: str = ""


class ControlStore(Protocol):
    """Decisions of people, for the web API. Each is in the audit log, with its effect in one transaction."""

    async def decide(self, said: Decision) -> Sequence[Ring]:
        """Answer a question of a run; the same answer twice is well.

        Raises:
            NotFound: there is no such run, or it has asked no such question.
            Conflict: somebody decided otherwise, the deadline passed, or the run is over.
        """
        ...

    async def resolve(self, said: Resolution) -> Sequence[Ring]:
        """Let an ambiguous run go on, or end it.

        Raises:
            NotFound: there is no such run, or no such step of it is in doubt.
            Conflict: the run is not ambiguous, or its instance is gone.
            Invalid: several steps are in doubt and none is named.
        """
        ...

    async def queues(self, namespace: str, instance: str | None = None) -> Sequence[QueueView]:
        """Return the queues of a namespace by name, or that of one instance."""
        ...

    async def pause(self, namespace: str, instance: str, actor: Actor) -> bool:
        """Hand out nothing of the queue any more; False if there is no such instance. Twice is well."""
        ...

    async def resume(self, namespace: str, instance: str, actor: Actor) -> Sequence[Ring] | None:
        """Hand out again; None if there is no such instance."""
        ...

    async def stop(self, namespace: str, actor: Actor, *, message: str, cancels: bool) -> Stop:
        """Accept and hand out nothing in the namespace any more, and cancel what runs if asked to."""
        ...

    async def start(self, namespace: str, actor: Actor) -> Sequence[Ring]:
        """Let the namespace work again."""
        ...

    async def stopped(self, namespace: str) -> Stop | None:
        """Return the stop that holds the namespace."""
        ...


class Cancellations(Protocol):
    """Hints that a running run was cancelled, for the gateway."""

    def of(self, instance_uid: str) -> AsyncIterator[None]:
        """Yield whenever a running run of the instance may have been cancelled."""
        ...


def run_target(run: RunId, step: str | None = None) -> str:
    """Return how the audit log names a run, or a step of it."""
    return f"run/{run}" if step is None else f"run/{run}/steps/{step}"
