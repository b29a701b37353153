"""What the REST API says and hears, as the OpenAPI document shows it, and how runs become that.

Values of users are JSON already: they are spliced in as they are, never parsed for an answer.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from everesthood.domain.errors import Refused
from everesthood.domain.runs import Approval, DedupeMode, Run, RunState
from everesthood.usecases.ports.record import StoredLine, StoredStep
from everesthood.usecases.replay_runs import Replayed
from everesthood.usecases.request_run import Answer

RunJson = dict[str, object]


class Shape(BaseModel):
    """What all shapes have in common: camel case, and no field that nobody declared."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")


class DedupeWish(Shape):
    """Which requests of the instance are one run; the answer to a repeat is 200 with that run."""

    key: Annotated[str, Field(min_length=1, max_length=255, description="Requests with this key are one.")]
    mode: Annotated[
        DedupeMode,
        Field(
            description=(
                "simple: while a run of the key is not over. throttle: for `seconds` after one was accepted."
                " debounce: the run starts `seconds` after the last request, with that one's input."
            )
        ),
    ] = "simple"
    seconds: Annotated[int, Field(ge=0, le=604_800, description="For throttle and debounce.")] = 0


class RunWish(Shape):
    """A run that somebody wants."""

    input: Annotated[
        Any, Field(description="The run's input, matching the template's inputSchema; at most 256 KiB.")
    ] = {}
    priority: Annotated[
        int, Field(ge=0, le=9, description="The greatest of an instance's due runs starts first.")
    ] = 0
    ttl_seconds: Annotated[
        int | None, Field(ge=1, le=2_592_000, description="Expire if nobody has started it after this time.")
    ] = None
    labels: Annotated[
        dict[str, str],
        Field(max_length=16, description="Names and values to find it by, as Kubernetes' labels."),
    ] = {}
    dedupe: Annotated[DedupeWish | None, Field(description="Make one run of several requests.")] = None


class RunsWish(Shape):
    """Runs of one AgentInstance that somebody wants."""

    runs: Annotated[list[RunWish], Field(min_length=1, max_length=100, description="What is wanted of each.")]


class RunTicket(Shape):
    """What became of one of several wishes: `id`, or `reason` and `detail`."""

    id: Annotated[str, Field(description="Id of the accepted run.")] = ""
    repeated: Annotated[bool, Field(description="The same request was accepted before.")] = False
    reason: Annotated[str, Field(description="Why it was refused; `everesthood explain`.")] = ""
    detail: Annotated[str, Field(description="The same for people.")] = ""


class RunTickets(Shape):
    """What became of several wishes."""

    items: Annotated[list[RunTicket], Field(description="In the order of the request.")]
    accepted: Annotated[int, Field(description="How many were accepted, now or before.")]
    refused: Annotated[int, Field(description="How many were not.")]


class ReplayWish(Shape):
    """How runs are to be replayed."""

    input: Annotated[Any, Field(description="Input instead of the old run's, if it is there.")] = None


class ReplayRefusal(Shape):
    """A run that was not replayed."""

    run: Annotated[str, Field(description="Id of the old run.")]
    reason: Annotated[str, Field(description="Why not; `everesthood explain`.")]
    detail: Annotated[str, Field(description="The same for people.")]


class ReplayPage(Shape):
    """What became of a page of runs."""

    matched: Annotated[int, Field(description="Runs that the filter found.")]
    replayed: Annotated[int, Field(description="Runs that have a replay now; 0 with `dryRun`.")]
    refused: Annotated[list[ReplayRefusal], Field(description="Runs that were refused.")]
    next: Annotated[str | None, Field(description="Cursor of the next page.")] = None


class ApprovalView(Shape):
    """A question that waits for a person."""

    step: Annotated[str, Field(description="Step that asks.")]
    message: Annotated[str, Field(description="What is to be approved.")]
    asked_at: Annotated[datetime, Field(description="When it was asked first.")]
    deadline_at: Annotated[datetime, Field(description="When the step fails if nobody has answered.")]


class StepView(Shape):
    """A step of a run."""

    seq: Annotated[int, Field(description="Grows within a run with each change of a step.")]
    name: Annotated[str, Field(description="Name in the template.")]
    state: Annotated[
        Literal["started", "succeeded", "skipped", "failed"], Field(description="How far it is.")
    ]
    output: Annotated[
        Any,
        Field(
            description="What it came to; null before its end, and where it is larger than 16 KiB: "
            "`getStepOutput` shows it."
        ),
    ] = None
    output_bytes: Annotated[int, Field(description="Size of the output.")]
    reason: Annotated[str, Field(description="Why it failed or was skipped; `everesthood explain`.")] = ""
    message: Annotated[str, Field(description="The same for people.")] = ""
    tries: Annotated[int, Field(description="Tries within the attempt.")]
    attempt: Annotated[int, Field(description="Attempt of the run that wrote it.")]
    started_at: Annotated[datetime | None, Field(description="By the worker's clock.")] = None
    finished_at: Annotated[datetime | None, Field(description="By the worker's clock.")] = None


class RunSummary(Shape):
    """A run, without its input and output."""

    id: Annotated[str, Field(description="UUIDv7; ids sort by time of acceptance.")]
    namespace: Annotated[str, Field(description="The organisation's namespace.")]
    instance: Annotated[str, Field(description="Name of the AgentInstance.")]
    state: Annotated[RunState, Field(description="queued, running and waiting are not final.")]
    reason: Annotated[str, Field(description="Why it is in that state; `everesthood explain`.")] = ""
    message: Annotated[str, Field(description="The same for people.")] = ""
    revision: Annotated[
        str | None, Field(description="Revision of the template that it executes, from its first start.")
    ] = None
    attempt: Annotated[int, Field(description="How many workers took it up so far.")]
    failures: Annotated[int, Field(description="How many of its attempts failed so far.")] = 0
    due_at: Annotated[
        datetime | None, Field(description="When it may start, while it is queued: later after a failure.")
    ] = None
    priority: Annotated[int, Field(description="The greatest starts first.")] = 0
    expires_at: Annotated[
        datetime | None, Field(description="When it expires if nobody has started it by then.")
    ] = None
    replay_of: Annotated[str | None, Field(description="The run that it replays.")] = None
    replayed_by: Annotated[str | None, Field(description="The latest run that replays it.")] = None
    approvals: Annotated[
        list[ApprovalView], Field(description="What it asks people, while it is not over.")
    ] = []
    template: Annotated[str | None, Field(description="Name of the instance's template.")] = None
    labels: Annotated[dict[str, str], Field(description="As they were given.")] = {}
    cancel_requested: Annotated[bool, Field(description="Its worker was told to stop.")]
    requested_by: Annotated[str, Field(description="Kubernetes user that asked for it, or `schedule/NAME`.")]
    request_id: Annotated[str, Field(description="X-Request-Id of the request that made it.")]
    schedule: Annotated[str | None, Field(description="Schedule of the instance that it belongs to.")] = None
    fire_at: Annotated[
        datetime | None,
        Field(description="Time of the schedule that it was made for; null when it was run by hand."),
    ] = None
    created_at: Annotated[datetime, Field(description="When it was accepted.")]
    started_at: Annotated[datetime | None, Field(description="First start.")] = None
    finished_at: Annotated[datetime | None, Field(description="When it became final.")] = None


class RunView(RunSummary):
    """A run."""

    input: Annotated[Any, Field(description="As it was given.")]
    output: Annotated[Any, Field(description="The result, once succeeded.")] = None


class RunDetail(RunView):
    """A run with its steps."""

    waits_for: Annotated[
        str, Field(description="Limit that keeps the run back at this moment, for people; empty for none.")
    ] = ""
    steps: Annotated[
        list[StepView], Field(description="The first hundred, in the order of their last change.")
    ]
    next_steps: Annotated[
        int | None, Field(description="`after` of `listSteps` for the others; null when there are none.")
    ] = None


class StepPage(Shape):
    """Some steps of a run."""

    items: Annotated[list[StepView], Field(description="In the order of their last change.")]
    next: Annotated[int | None, Field(description="`after` of the next page; null at the end.")] = None


class RunPage(Shape):
    """A page of runs, newest first."""

    items: Annotated[list[RunSummary], Field(description="Runs.")]
    next: Annotated[str | None, Field(description="Cursor of the next page.")] = None


class LineView(Shape):
    """A line of a run's log."""

    seq: Annotated[int, Field(description="Grows within the run.")]
    at: Annotated[datetime, Field(description="By the worker's clock.")]
    level: Annotated[str, Field(description="debug, info, warning or error.")]
    step: Annotated[str, Field(description="Step that wrote it; empty for the run.")] = ""
    message: Annotated[str, Field(description="Text.")]


class LogPage(Shape):
    """A page of a run's log."""

    items: Annotated[list[LineView], Field(description="Lines.")]
    next: Annotated[int | None, Field(description="`after` of the next page, when there may be one.")] = None


class FieldProblem(Shape):
    """One broken rule."""

    pointer: Annotated[str, Field(description="JSON pointer into the request.")]
    detail: Annotated[str, Field(description="What is wrong there.")]


class ProblemView(Shape):
    """A refusal, after RFC 9457."""

    type: Annotated[str, Field(description="`urn:everesthood:reason:` and the reason.")]
    title: Annotated[str, Field(description="The HTTP status in words.")]
    status: Annotated[int, Field(description="The HTTP status.")]
    reason: Annotated[str, Field(description="Stable, one of the catalogue; `everesthood explain REASON`.")]
    detail: Annotated[str, Field(description="What happened, for people.")]
    request_id: Annotated[str, Field(description="X-Request-Id, which finds the log lines.")]
    problems: Annotated[list[FieldProblem], Field(description="The fields at fault.")] = []


BY_HAND = (RunWish, RunsWish, ReplayWish, ProblemView)
"""Shapes that FastAPI does not see, since bodies are read and refusals written by hand."""


def summary(run: Run) -> RunJson:
    """Return a run as RunSummary."""
    return {
        "id": run.id,
        "namespace": run.namespace,
        "instance": run.instance,
        "state": run.state,
        "reason": run.reason or "",
        "message": run.message,
        "revision": run.revision,
        "attempt": run.attempt,
        "failures": run.failures,
        "dueAt": run.due_at,
        "priority": run.priority,
        "expiresAt": run.expires_at,
        "replayOf": run.replay_of,
        "replayedBy": run.replayed_by,
        "approvals": [approval_view(asked) for asked in run.approvals],
        "template": run.template,
        "labels": run.labels,
        "cancelRequested": run.cancel_requested,
        "requestedBy": run.requested_by,
        "requestId": run.request_id,
        "schedule": run.schedule,
        "fireAt": run.fire_at,
        "createdAt": run.created_at,
        "startedAt": run.started_at,
        "finishedAt": run.finished_at,
    }


def approval_view(asked: Approval) -> RunJson:
    """Return a question as ApprovalView."""
    return {
        "step": asked.step,
        "message": asked.message,
        "askedAt": asked.asked_at,
        "deadlineAt": asked.deadline_at,
    }


def view(run: Run) -> RunJson:
    """Return a run as RunView."""
    return {**summary(run), "input": _raw(run.input), "output": _raw(run.output)}


def detail(run: Run, steps: Sequence[StoredStep], following: int | None) -> RunJson:
    """Return a run as RunDetail."""
    return {
        **view(run),
        "waitsFor": run.waits_for,
        "steps": [step_view(step) for step in steps],
        "nextSteps": following,
    }


def tickets(ends: Sequence[Answer | Refused]) -> RunJson:
    """Return what became of wishes as RunTickets."""
    items: list[RunJson] = [
        {"reason": end.reason, "detail": end.message}
        if isinstance(end, Refused)
        else {"id": end.run.id, "repeated": end.repeated}
        for end in ends
    ]
    refused = sum("reason" in item for item in items)
    return {"items": items, "accepted": len(items) - refused, "refused": refused}


def replayed(done: Replayed) -> RunJson:
    """Return what became of runs as ReplayPage."""
    return {
        "matched": done.matched,
        "replayed": done.replayed,
        "refused": [{"run": one.run, "reason": one.reason, "detail": one.message} for one in done.refusals],
        "next": done.next,
    }


def step_view(step: StoredStep) -> RunJson:
    """Return a step as StepView."""
    return {
        "seq": step.seq,
        "name": step.name,
        "state": step.state,
        "output": _raw(step.output),
        "outputBytes": step.size,
        "reason": step.reason,
        "message": step.message,
        "tries": step.tries,
        "attempt": step.attempt,
        "startedAt": step.started_at,
        "finishedAt": step.finished_at,
    }


def line_view(line: StoredLine) -> RunJson:
    """Return a log line as LineView."""
    return {
        "seq": line.seq,
        "at": line.at,
        "level": line.level,
        "step": line.step,
        "message": line.message,
    }


def _raw(value: bytes | None) -> msgspec.Raw:
    return msgspec.Raw(value or b"null")
