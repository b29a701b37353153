"""The operations of those who control: answer questions, resolve doubts, hold queues, stop everything."""

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response

from everesthood.apis import names
from everesthood.domain.approvals import Decision
from everesthood.domain.doubts import Resolution
from everesthood.entrypoints.web import bodies, control_schemas, schemas
from everesthood.entrypoints.web.guard import Call, guard, guard_of_instance, guard_of_namespace
from everesthood.entrypoints.web.operations import RunPath, answered, declare, problems
from everesthood.usecases.control_queue import pause_queue, resume_queue, show_queue
from everesthood.usecases.decide_approval import decide_approval
from everesthood.usecases.get_run import find_run
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.resolve_run import resolve_run
from everesthood.usecases.stop_organization import start_organization, stop_organization

router = APIRouter(prefix=names.API_PREFIX, tags=["runs"])
operation = partial(declare, router)


def _body(shape: str) -> dict[str, object]:
    reference = {"$ref": f"#/components/schemas/{shape}"}
    return {"requestBody": {"content": {"application/json": {"schema": reference}}}}


_BODY: Final = (413, 415, 422)


@operation(
    "POST",
    "/runs/{run}/steps/{step}/approval",
    "decideApproval",
    summary="Approve or reject",
    response_model=schemas.RunView,
    responses=problems(404, 409, *_BODY),
    openapi_extra=_body("ApprovalWish"),
)
async def decide(
    request: Request,
    run: RunPath,
    step: Annotated[str, Path(description="Name of the step that asks.")],
    call: Annotated[Call, Depends(guard("decideApproval"))],
) -> Response:
    """Answer what a run asks in an approval step. An approved run goes on at once; the first answer counts.

    The same answer again is well; another one is a conflict.
    """
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    body = await bodies.read(request, bodies.ApprovalBody)
    said = Decision(
        namespace=call.namespace,
        run=found.id,
        step=step,
        approved=body.approved,
        actor=call.identity.username,
        comment=body.comment,
        request_id=call.request_id,
    )
    await decide_approval(call.parts.control, call.parts.bell, said)
    now = await find_run(call.parts.runs, call.namespace, run)
    return answered(schemas.view(now))


@operation(
    "POST",
    "/runs/{run}/resolve",
    "resolveRun",
    summary="Resolve an ambiguous run",
    response_model=schemas.RunView,
    responses=problems(404, 409, *_BODY),
    openapi_extra=_body("ResolutionWish"),
)
async def resolve(
    request: Request, run: RunPath, call: Annotated[Call, Depends(guard("resolveRun"))]
) -> Response:
    """Say what became of a step whose outcome is unknown, or give the run up.

    The run goes on once no step is in doubt, on its own revision and with all of its time.
    """
    found = await find_run(call.parts.runs, call.namespace, run, call.instance)
    body = await bodies.read(request, bodies.ResolutionBody)
    said = Resolution(
        namespace=call.namespace,
        run=found.id,
        answer=body.outcome,
        actor=call.identity.username,
        step=body.step,
        output=bytes(body.output),
        comment=body.comment,
        request_id=call.request_id,
    )
    await resolve_run(call.parts.control, call.parts.bell, said)
    now = await find_run(call.parts.runs, call.namespace, run)
    return answered(schemas.view(now))


@operation(
    "GET",
    "/queues",
    "listQueues",
    summary="List queues",
    response_model=control_schemas.QueueList,
    responses=problems(),
)
async def list_queues(call: Annotated[Call, Depends(guard("listQueues"))]) -> Response:
    """List the queues of a namespace by name, with what holds them and what is in them."""
    control = call.parts.control
    found = await control.queues(call.namespace, call.instance or None)
    stop = await control.stopped(call.namespace)
    shown = {
        "stopped": control_schemas.stop_view(stop),
        "items": [control_schemas.queue_view(queue) for queue in found],
    }
    return answered(shown)


@operation(
    "GET",
    "/instances/{name}/queue",
    "getQueue",
    summary="Show a queue",
    response_model=control_schemas.QueueShape,
    responses=problems(404),
)
async def get_queue(call: Annotated[Call, Depends(guard_of_instance("getQueue"))]) -> Response:
    """Show the queue of an AgentInstance: what holds it and what is in it."""
    found = await show_queue(call.parts.control, call.namespace, call.instance)
    return answered(control_schemas.queue_view(found))


@operation(
    "POST",
    "/instances/{name}/queue/pause",
    "pauseQueue",
    summary="Pause a queue",
    response_model=control_schemas.QueueShape,
    responses=problems(404),
)
async def pause(call: Annotated[Call, Depends(guard_of_instance("pauseQueue"))]) -> Response:
    """Hand nothing out any more: runs are accepted and wait, those that run go on."""
    now = await pause_queue(call.parts.control, call.namespace, call.instance, _actor(call))
    return answered(control_schemas.queue_view(now))


@operation(
    "POST",
    "/instances/{name}/queue/resume",
    "resumeQueue",
    summary="Resume a queue",
    response_model=control_schemas.QueueShape,
    responses=problems(404),
)
async def resume(call: Annotated[Call, Depends(guard_of_instance("resumeQueue"))]) -> Response:
    """Hand out again; workers are woken at once."""
    parts = call.parts
    now = await resume_queue(parts.control, parts.bell, call.namespace, call.instance, _actor(call))
    return answered(control_schemas.queue_view(now))


@operation(
    "POST",
    "/stop",
    "stopOrganization",
    summary="Stop an organisation",
    response_model=control_schemas.StopView,
    responses=problems(*_BODY),
    openapi_extra=_body("StopWish"),
)
async def stop(
    request: Request, call: Annotated[Call, Depends(guard_of_namespace("stopOrganization"))]
) -> Response:
    """Stop everything in a namespace at once: nothing is accepted, nothing starts, what runs is cancelled.

    What waits stays and goes on after a start. A second stop changes the first only where it cancels runs
    and the first did not.
    """
    body = await bodies.read(request, bodies.StopBody)
    made = await stop_organization(
        call.parts.control,
        call.namespace,
        _actor(call),
        message=body.message,
        cancels=body.runs == "cancel",
    )
    return answered(control_schemas.stop_view(made) or {})


@operation(
    "POST",
    "/start",
    "startOrganization",
    summary="Start an organisation again",
    response_model=control_schemas.QueueList,
    responses=problems(),
)
async def start(call: Annotated[Call, Depends(guard_of_namespace("startOrganization"))]) -> Response:
    """Lift the stop of a namespace; paused queues stay paused. Answers with the queues as they are now."""
    parts = call.parts
    await start_organization(parts.control, parts.bell, call.namespace, _actor(call))
    found = await parts.control.queues(call.namespace)
    return answered({"stopped": None, "items": [control_schemas.queue_view(queue) for queue in found]})


def _actor(call: Call) -> Actor:
    return Actor(name=call.identity.username, request_id=call.request_id)
