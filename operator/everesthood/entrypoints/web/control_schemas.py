"""What the operations of control say and hear, as the OpenAPI document shows it."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from everesthood.domain.doubts import Answer
from everesthood.domain.queues import QueueView, Stop
from everesthood.entrypoints.web.schemas import RunJson, Shape


class ApprovalWish(Shape):
    """An answer to what a run asks."""

    approved: Annotated[bool, Field(description="Yes or no.")] = True
    comment: Annotated[str, Field(max_length=1000, description="Why, for whoever looks later.")] = ""


class ResolutionWish(Shape):
    """What became of a step whose outcome is unknown."""

    outcome: Annotated[
        Answer,
        Field(
            description=(
                "done: it took effect, and the run goes on behind it. repeat: do it again."
                " giveUp: the run ends as dead."
            )
        ),
    ]
    step: Annotated[
        str | None,
        Field(
            description="Step as the run shows it, such as `pay` or `loop[2].pay`; may be left out for one."
        ),
    ] = None
    output: Annotated[Any, Field(description="With done: the step's output; at most 256 KiB.")] = None
    comment: Annotated[str, Field(max_length=1000, description="Why, for whoever looks later.")] = ""


class StopWish(Shape):
    """How an organisation is to be stopped."""

    message: Annotated[str, Field(max_length=1000, description="Why; whoever is refused may see it.")] = ""
    runs: Annotated[Literal["cancel", "finish"], Field(description="What becomes of those that run.")] = (
        "cancel"
    )


class PauseView(Shape):
    """Who paused a queue."""

    at: Annotated[datetime, Field(description="Since when.")]
    by: Annotated[str, Field(description="Kubernetes user.")]


class StopView(Shape):
    """Who stopped an organisation."""

    at: Annotated[datetime, Field(description="Since when.")]
    by: Annotated[str, Field(description="Kubernetes user.")]
    message: Annotated[str, Field(description="Why.")]
    runs: Annotated[Literal["cancel", "finish"], Field(description="What became of those that ran.")]


class QueueShape(Shape):
    """The queue of an AgentInstance. Three stops, each by itself: suspended, paused, stopped."""

    namespace: Annotated[str, Field(description="The organisation's namespace.")]
    instance: Annotated[str, Field(description="Name of the AgentInstance.")]
    suspended: Annotated[bool, Field(description="spec.suspend, the owner's intent: nothing new starts.")]
    paused: Annotated[PauseView | None, Field(description="Somebody holds this queue.")] = None
    stopped: Annotated[StopView | None, Field(description="Somebody stopped the organisation.")] = None
    current_revision: Annotated[str | None, Field(description="Revision that new runs start on.")] = None
    due: Annotated[int, Field(description="Runs that could start now; of more than 100,000 no more is said.")]
    later: Annotated[int, Field(description="Runs whose time is still to come.")]
    running: Annotated[int, Field(description="Runs that workers hold.")]
    waiting: Annotated[int, Field(description="Runs that wait for a person.")]
    oldest_due_at: Annotated[datetime | None, Field(description="Since when the first of them waits.")] = None


class QueueList(Shape):
    """The queues of a namespace."""

    stopped: Annotated[StopView | None, Field(description="Somebody stopped the organisation.")] = None
    items: Annotated[list[QueueShape], Field(description="By name.")]


BY_HAND = (ApprovalWish, ResolutionWish, StopWish)
"""Shapes that FastAPI does not see, since bodies are read by hand."""


def queue_view(found: QueueView) -> RunJson:
    """Return a queue as QueueShape."""
    return {
        "namespace": found.namespace,
        "instance": found.instance,
        "suspended": found.suspended,
        "paused": None if found.pause is None else {"at": found.pause.at, "by": found.pause.by},
        "stopped": stop_view(found.stop),
        "currentRevision": found.current_revision,
        "due": found.due,
        "later": found.later,
        "running": found.running,
        "waiting": found.waiting,
        "oldestDueAt": found.oldest_due_at,
    }


def stop_view(found: Stop | None) -> RunJson | None:
    """Return a stop as StopView."""
    if found is None:
        return None
    runs = "cancel" if found.cancels else "finish"
    return {"at": found.at, "by": found.by, "message": found.message, "runs": runs}
