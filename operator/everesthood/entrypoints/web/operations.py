"""What the operations of the API have in common: how they are declared, and how they answer."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Header, Path
from fastapi.responses import Response

from everesthood.apis import names
from everesthood.entrypoints.web import schemas
from everesthood.entrypoints.web.guard import Call
from everesthood.entrypoints.web.problems import MEDIA_TYPE as PROBLEM
from everesthood.usecases.request_run import Answer

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

RunPath = Annotated[str, Path(description="Id of the run.")]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return what an operation says when it refuses with these statuses."""
    shape = {"schema": {"$ref": "#/components/schemas/ProblemView"}}
    return {
        code: {"description": _SAYS[code], "content": {PROBLEM: shape}} for code in (401, 403, *codes, 503)
    }


def declare(
    router: APIRouter,
    method: str,
    path: str,
    operation_id: str,
    **said: Any,  # noqa: ANN401
) -> Callable[..., Any]:
    """Return the decorator of an operation on a namespace."""
    place = f"/namespaces/{{namespace}}{path}"
    return router.api_route(place, methods=[method], operation_id=operation_id, **said)


REPEATED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The same request was accepted before.", "model": schemas.RunView}
}
IdempotencyKey = Annotated[str | None, Header(description="A repeat with the same key gets the same run.")]


def accepted(call: Call, answer: Answer) -> Response:
    """Return the run that a request came to."""
    location = f"{names.API_PREFIX}/namespaces/{call.namespace}/runs/{answer.run.id}"
    status = 200 if answer.repeated else 201
    return answered(schemas.view(answer.run), status=status, headers={"Location": location})


def answered(
    body: Mapping[str, object], *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a body as an answer."""
    return Response(msgspec.json.encode(body), status, headers, "application/json")
