"""The operations: translate the request, call the use case, translate the answer."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from everesthood.apis import names
from everesthood.domain.runs import GRACE_SECONDS, LONGEST_GRACE_SECONDS, Run, RunState
from everesthood.entrypoints.web import bodies, schemas
from everesthood.entrypoints.web.guard import Call, guard, guard_of_instance
from everesthood.entrypoints.web.problems import MEDIA_TYPE as PROBLEM
from everesthood.entrypoints.web.streams import MEDIA_TYPE as EVENTS
from everesthood.usecases.cancel_run import cancel_run
from everesthood.usecases.follow_run import follow_run
from everesthood.usecases.get_run import find_run, get_log, get_output, get_run, get_steps
from everesthood.usecases.list_runs import list_runs
from everesthood.usecases.list_schedules import find_schedule, list_schedules
from everesthood.usecases.ports.record import RunFilter
from everesthood.usecases.replay_runs import MOST_AT_ONCE, Replay, replay_run, replay_runs
from everesthood.usecases.request_run import Answer, Wish
from everesthood.usecases.request_runs import key_of, request_runs

_SAYS: Final = {
    401: "No valid token came with the request.",
    403: "RBAC does not allow it; said before anything is looked up.",
    404: "It is not there.",
    409: "It clashes with what is there.",
    413: "The request is too large.",
    415: "The body is not plain application/json.",
    422: "The request breaks a rule; `problems` names the fields.",
    503: "PostgreSQL or Kubernetes is down; nothing was accepted. Retry-After says when to try again.",
}
_RUN_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/RunWish"}}}
_RUNS_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/RunsWish"}}}
_REPLAY_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/ReplayWish"}}}

router = APIRouter(prefix=names.API_PREFIX, tags=["runs"])
RunPath = Annotated[str, Path(description="Id of the run.")]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return what an operation says when it refuses with these statuses."""
    shape = {"schema": {"$ref": "#/components/schemas/ProblemView"}}
    return {
        code: {"description": _SAYS[code], "content": {PROBLEM: shape}} for code in (401, 403, *codes, 503)
    }


def operation(method: str, path: str, operation_id: str, **said: Any) -> Callable[..., Any]:  # noqa: ANN401
    """Return the decorator of an operation on a namespace."""
    place = f"/namespaces/{{namespace}}{path}"
    return router.api_route(place, methods=[method], operation_id=operation_id, **said)


_REPEATED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The same request was accepted before.", "model": schemas.RunView}
}
IdempotencyKey = Annotated[str | None, Header(description="A repeat with the same key gets the same run.")]


@operation(
    "POST",
    "/instances/{name}/runs",
    "createRun",
    summary="Start a run",
    response_model=schemas.RunView,
    status_code=201,
    responses={
        **problems(404, 409, 413, 415, 422),
        **_REPEATED,
    },
    openapi_extra={"requestBody": {"content": _RUN_WISH}},
)
async def create_run(
    request: Request,
    call: Annotated[Call, Depends(guard_of_instance("createRun"))],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a run. When this answers, the run is durable and ends in a final state, whatever dies."""
    wish = _wish(call, await bodies.read(request, bodies.RunBody), bodies.idempotency_key(idempotency_key))
    return _accepted(call, await call.parts.request_run(wish))


@operation(
    "POST",
    "/instances/{name}/runs/bulk",
    "createRuns",
    summary="Start several runs",
    response_model=schemas.RunTickets,
    status_code=201,
    responses=problems(413, 415, 422),
    openapi_extra={"requestBody": {"content": _RUNS_WISH}},
)
async def create_runs(
    request: Request,
    call: Annotated[Call, Depends(guard_of_instance("createRuns"))],
    idempotency_key: Annotated[
        str | None, Header(description="A repeat with the same key, and the same runs in order, starts none.")
    ] = None,
) -> Response:
    """Accept up to 100 runs, each as if it had come alone: one that is refused stops no other.

    When this answers, every run with an `id` is durable. Cheaper than a call for each.
    """
    key = bodies.idempotency_key(idempotency_key)
    wanted = (await bodies.read(request, bodies.RunsBody)).runs
    wishes = [_wish(call, body, key_of(key, index)) for index, body in enumerate(wanted)]
    return answered(schemas.tickets(await request_runs(call.parts.request_run, wishes)), status=201)


def _wish(call: Call, body: bodies.RunBody, key: str | None) -> Wish:
    return Wish(
        namespace=call.namespace,
        instance=call.instance,
        input=bytes(body.input),
        requested_by=call.identity.username,
        request_id=call.request_id,
        idempotency_key=key,
        priority=body.priority,
        ttl_seconds=body.ttl_seconds,
        labels=body.labels,
        dedupe=body.same,
    )


def _accepted(call: Call, answer: Answer) -> Response:
    location = f"{names.API_PREFIX}/namespaces/{call.namespace}/runs/{answer.run.id}"
    status = 200 if answer.repeated else 201
    return answered(schemas.view(answer.run), status=status, headers={"Location": location})


class RunQuery(BaseModel):
    """Which runs are meant."""

    state: Annotated[list[RunState], Field(max_length=8, description="Only these states.")] = []
    reason: Annotated[str | None, Field(max_length=64, description="Only with this reason.")] = None
    template: Annotated[str | None, Field(max_length=253, description="Only of this template.")] = None
    revision: Annotated[str | None, Field(max_length=64, description="Only on this revision.")] = None
    replayed: Annotated[
        bool | None, Field(description="Only with a replay, or only without; both where it is left out.")
    ] = None
    label: Annotated[list[str], Field(max_length=16, description="Only with this label, NAME=VALUE.")] = []
    text: Annotated[
        str | None,
        Field(min_length=1, max_length=200, description="Only with this text in the input or the output."),
    ] = None
    created_from: Annotated[
        datetime | None, Field(alias="createdFrom", description="Only accepted then or later.")
    ] = None
    created_to: Annotated[
        datetime | None, Field(alias="createdTo", description="Only accepted before then.")
    ] = None
    cursor: Annotated[str | None, Field(max_length=64, description="`next` of the page before.")] = None

    def of(self, call: Call, limit: int) -> RunFilter:
        """Return the filter for the runs that the call may see."""
        return RunFilter(
            namespace=call.namespace,
            instance=call.instance or None,
            states=frozenset(self.state),
            reason=self.reason,
            template=self.template,
            revision=self.revision,
            replayed=self.replayed,
            labels=bodies.labels(self.label),
            text=self.text,
            created_from=bodies.moment(self.created_from, "createdFrom"),
            created_to=bodies.moment(self.created_to, "createdTo"),
            before=self.cursor,
            limit=limit,
        )


class ListQuery(RunQuery):
    """Which page of runs is wanted."""

    limit: Annotated[int, Field(ge=1, le=200, description="Runs per page.")] = 50


class ReplayQuery(RunQuery):
    """Which runs are to be replayed."""

    limit: Annotated[int, Field(ge=1, le=MOST_AT_ONCE, description="Most runs of this call.")] = 100
    dry_run: Annotated[bool, Field(alias="dryRun", description="Count only.")] = False


@operation(
    "GET", "/runs", "listRuns", summary="List runs", response_model=schemas.RunPage, responses=problems(422)
)
async def get_runs(
    call: Annotated[Call, Depends(guard("listRuns"))],
    wanted: Annotated[ListQuery, Query()],
) -> Response:
    """List the runs of a namespace, newest first.

    A call looks at a bounded number of runs, so that none takes long. A page may therefore be short, even
    empty, although more runs follow: go on for as long as `next` is set.
    """
    page, following = await list_runs(call.parts.runs, wanted.of(call, wanted.limit))
    return answered({"items": [schemas.summary(run) for run in page], "next": following})


@operation(
    "GET",
    "/runs/{run}",
    "getRun",
    summary="Show a run",
    response_model=schemas.RunDetail,
    responses=problems(404),
)
async def show_run(run: RunPath, call: Annotated[Call, Depends(guard("getRun"))]) -> Response:
    """Show a run with its first hundred steps; `listSteps` has the others."""
    found = await get_run(call.parts.runs, call.namespace, run, call.instance)
    return answered(schemas.detail(found, *await get_steps(call.parts.runs, found)))


class StepQuery(BaseModel):
    """Which part of a run's steps is wanted."""

    after: Annotated[int, Field(ge=0, le=2**53, description="Only steps with a greater `seq`.")] = 0
    limit: Annotated[int, Field(ge=1, le=500, description="Steps per page.")] = 100


@operation(
    "GET",
    "/runs/{run}/steps",
    "listSteps",
    summary="List a run's steps",
    response_model=schemas.StepPage,
    responses=problems(404, 422),
)
async def show_steps(
    run: RunPath,
    call: Annotated[Call, Depends(guard("listSteps"))],
    wanted: Annotated[StepQuery, Query()],
) -> Response:
    """List a run's steps in the order of their last change: one that changes meanwhile comes again."""
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    steps, following = await get_steps(call.parts.runs, found, after=wanted.after, limit=wanted.limit)
    return answered({"items": [schemas.step_view(step) for step in steps], "next": following})


@operation(
    "GET",
    "/runs/{run}/steps/{step:path}/output",
    "getStepOutput",
    summary="Show what a step came to",
    responses={**problems(404, 422), 200: {"description": "The output, as JSON."}},
)
async def show_output(
    run: RunPath,
    step: Annotated[str, Path(max_length=300, description="Name of the step.")],
    call: Annotated[Call, Depends(guard("getStepOutput"))],
) -> Response:
    """Show the output of one step, however large."""
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    return Response(await get_output(call.parts.runs, found, step), media_type="application/json")


@operation(
    "POST",
    "/runs/{run}/cancel",
    "cancelRun",
    summary="Cancel a run",
    response_model=schemas.RunView,
    responses=problems(404, 409, 422),
)
async def stop_run(
    run: RunPath,
    call: Annotated[Call, Depends(guard("cancelRun"))],
    grace_seconds: Annotated[
        int,
        Query(
            alias="graceSeconds",
            ge=0,
            le=LONGEST_GRACE_SECONDS,
            description="How long a running run has to come to an end before it is broken off.",
        ),
    ] = GRACE_SECONDS,
) -> Response:
    """Cancel a run: at once when it waits; when it runs, its worker is told to stop.

    A worker hears of it within about a second. After the grace the run is over, whatever its worker does.
    """
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    actor = call.identity.username
    now = await cancel_run(
        call.parts.runs, found, actor=actor, request_id=call.request_id, grace_seconds=grace_seconds
    )
    return answered(schemas.view(now))


@operation(
    "POST",
    "/runs/{run}/replay",
    "replayRun",
    summary="Replay a run",
    response_model=schemas.RunView,
    status_code=201,
    responses={
        **problems(404, 409, 413, 415, 422),
        **_REPEATED,
    },
    openapi_extra={"requestBody": {"content": _REPLAY_WISH}},
)
async def replay_one(
    request: Request,
    run: RunPath,
    call: Annotated[Call, Depends(guard("replayRun"))],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Start a run that is over again, as a new run on the current revision that names the old one.

    Needs `get agentinstances/runs` too: the new run shows the old one's input.
    """
    await call.require("getRun")
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    how = _replay(call, await bodies.read(request, bodies.ReplayBody), idempotency_key)
    return _accepted(call, await replay_run(call.parts.request_run, found, how))


@operation(
    "POST",
    "/runs/replay",
    "replayRuns",
    summary="Replay runs",
    response_model=schemas.ReplayPage,
    responses=problems(413, 415, 422),
    openapi_extra={"requestBody": {"content": _REPLAY_WISH}},
)
async def replay_many(
    request: Request,
    call: Annotated[Call, Depends(guard("replayRuns"))],
    wanted: Annotated[ReplayQuery, Query()],
    idempotency_key: Annotated[
        str | None, Header(description="A repeat with the same key replays no run twice.")
    ] = None,
) -> Response:
    """Start runs that are over again, dead ones unless `state` says other: a bounded number, newest first.

    `next` says where to go on. A run that is refused, since its input no longer fits, stops no other.
    Needs `list agentinstances/runs` too.
    """
    await call.require("listRuns")
    how = _replay(call, await bodies.read(request, bodies.ReplayBody), idempotency_key)
    parts = call.parts
    done = await replay_runs(
        parts.request_run, parts.runs, wanted.of(call, wanted.limit), how, dry_run=wanted.dry_run
    )
    return answered(schemas.replayed(done))


def _replay(call: Call, body: bodies.ReplayBody, key: str | None) -> Replay:
    return Replay(
        requested_by=call.identity.username,
        request_id=call.request_id,
        input=body.given,
        idempotency_key=bodies.idempotency_key(key),
    )


@operation(
    "GET",
    "/instances/{name}/schedules",
    "listSchedules",
    summary="List the schedules of an AgentInstance",
    response_model=schemas.ScheduleList,
    responses=problems(404),
)
async def get_schedules(call: Annotated[Call, Depends(guard_of_instance("listSchedules"))]) -> Response:
    """List the schedules of an AgentInstance with their next and last times."""
    found = await list_schedules(call.parts.runs, call.namespace, call.instance)
    return answered({"items": [schemas.schedule_view(schedule) for schedule in found]})


@operation(
    "POST",
    "/instances/{name}/schedules/{schedule}/run",
    "runSchedule",
    summary="Run a schedule now",
    response_model=schemas.RunView,
    status_code=201,
    responses={
        **problems(404, 409, 422),
        **_REPEATED,
    },
)
async def run_schedule(
    schedule: Annotated[str, Path(description="Name of the schedule.")],
    call: Annotated[Call, Depends(guard_of_instance("runSchedule"))],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a run with the schedule's input, whatever else runs; its times stay as they are."""
    found = await find_schedule(call.parts.runs, call.namespace, call.instance, schedule)
    wish = Wish(
        namespace=call.namespace,
        instance=call.instance,
        input=found.schedule.input,
        requested_by=call.identity.username,
        request_id=call.request_id,
        idempotency_key=bodies.idempotency_key(idempotency_key),
        schedule=found.schedule.name,
    )
    return _accepted(call, await call.parts.request_run(wish))


class LogQuery(BaseModel):
    """Which part of a log is wanted, and how."""

    follow: Annotated[bool, Field(description="Stream events until the run is over.")] = False
    after: Annotated[int, Field(ge=0, le=2**53, description="Only lines with a greater `seq`.")] = 0
    limit: Annotated[int, Field(ge=1, le=1000, description="Lines per page.")] = 500


@operation(
    "GET",
    "/runs/{run}/log",
    "getRunLog",
    summary="Read or follow a run's log",
    response_model=schemas.LogPage,
    responses={**problems(404, 422), 200: {"content": {EVENTS: {"schema": {"type": "string"}}}}},
)
async def show_log(
    request: Request,
    run: RunPath,
    call: Annotated[Call, Depends(guard("getRunLog"))],
    wanted: Annotated[LogQuery, Query()],
    last_event_id: Annotated[
        str | None, Header(description="Id of the last event that you saw, to go on from there.")
    ] = None,
) -> Response:
    """Read a page of the log, or follow it as server-sent events (`follow`, or Accept: text/event-stream).

    Events: `line`, `step`, `run` (the last one shows a final state) and `error` (a problem; come back later).
    """
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    if wanted.follow or EVENTS in request.headers.get("accept", ""):
        return _stream(call, found, _resume(last_event_id, wanted.after))
    lines = await get_log(call.parts.runs, found, after=wanted.after, limit=wanted.limit)
    following = lines[-1].seq if len(lines) == wanted.limit else None
    return answered({"items": [schemas.line_view(line) for line in lines], "next": following})


class _Follow(StreamingResponse):
    """A stream that holds one of the places for exactly as long as it is served."""

    def __init__(self, seat: AbstractContextManager[None], events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type=EVENTS, headers={"X-Accel-Buffering": "no"})
        self._seat = seat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._seat:  # full: raised before the answer's head, so that it is a 503
            await super().__call__(scope, receive, send)


def _stream(call: Call, run: Run, place: tuple[int, int]) -> Response:
    streams = call.parts.streams
    changes = follow_run(call.parts.runs, run, after=place[0], after_step=place[1])
    events = streams.events(changes, place=place, check=call.check, request_id=call.request_id)
    return _Follow(streams.seat(call.identity.username), events)


def _resume(last_event_id: str | None, after: int) -> tuple[int, int]:
    """Return the last line and the last change of a step that a follower has seen."""
    seen = re.fullmatch(r"([0-9]{1,15})-([0-9]{1,15})", last_event_id or "")
    return (int(seen[1]), int(seen[2])) if seen else (after, 0)


def answered(
    body: Mapping[str, object], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a body as an answer."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")
