"""The operations on schedules."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.responses import Response

from everesthood.apis import names
from everesthood.entrypoints.web import bodies, schedule_schemas, schemas
from everesthood.entrypoints.web.guard import Call, guard_of_instance
from everesthood.entrypoints.web.operations import (
    REPEATED,
    IdempotencyKey,
    accepted,
    answered,
    declare,
    problems,
)
from everesthood.usecases.list_schedules import find_schedule, list_schedules
from everesthood.usecases.request_run import Wish

router = APIRouter(prefix=names.API_PREFIX, tags=["runs"])
operation = partial(declare, router)


@operation(
    "GET",
    "/instances/{name}/schedules",
    "listSchedules",
    summary="List the schedules of an AgentInstance",
    response_model=schedule_schemas.ScheduleList,
    responses=problems(404),
)
async def get_schedules(call: Annotated[Call, Depends(guard_of_instance("listSchedules"))]) -> Response:
    """List the schedules of an AgentInstance with their next and last times."""
    found = await list_schedules(call.parts.runs, call.namespace, call.instance)
    return answered({"items": [schedule_schemas.schedule_view(schedule) for schedule in found]})


@operation(
    "POST",
    "/instances/{name}/schedules/{schedule}/run",
    "runSchedule",
    summary="Run a schedule now",
    response_model=schemas.RunView,
    status_code=201,
    responses={
        **problems(404, 409, 422),
        **REPEATED,
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
    return accepted(call, await call.parts.request_run(wish))
