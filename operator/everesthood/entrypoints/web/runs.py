"""The operations on runs: translate the request, call the use case, translate the answer."""

from datetime import datetime
from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from everesthood.apis import names
from everesthood.domain.runs import GRACE_SECONDS, LONGEST_GRACE_SECONDS, RunState
from everesthood.entrypoints.web import bodies, schemas
from everesthood.entrypoints.web.guard import Call, guard, guard_of_instance
from everesthood.entrypoints.web.operations import (
    REPEATED,
    IdempotencyKey,
    RunPath,
    accepted,
    answered,
    declare,
    problems,
)
from everesthood.usecases.cancel_run import cancel_run
from everesthood.usecases.get_run import find_run, get_output, get_run, get_steps
from everesthood.usecases.list_runs import list_runs
from everesthood.usecases.ports.record import RunFilter
from everesthood.usecases.replay_runs import MOST_AT_ONCE, Replay, replay_run, replay_runs
from everesthood.usecases.request_run import Wish
from everesthood.usecases.request_runs import key_of, request_runs

_RUN_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/RunWish"}}}
_RUNS_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/RunsWish"}}}
_REPLAY_WISH: Final = {"application/json": {"schema": {"$ref": "#/components/schemas/ReplayWish"}}}

router = APIRouter(prefix=names.API_PREFIX, tags=["runs"])
operation = partial(declare, router)


@operation(
    "POST",
    "/instances/{name}/runs",
    "createRun",
    summary="Start a run",
    response_model=schemas.RunView,
    status_code=201,
    responses={
        **problems(404, 409, 413, 415, 422),
        **REPEATED,
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
    return accepted(call, await call.parts.request_run(wish))


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
        **REPEATED,
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
    return accepted(call, await replay_run(call.parts.request_run, found, how))


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
