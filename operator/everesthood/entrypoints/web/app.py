"""The web application, from its parts."""

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from everesthood import __version__
from everesthood.apis import names
from everesthood.domain.access import PUBLIC, REQUIRED
from everesthood.entrypoints.web import (
    control,
    control_schemas,
    docs,
    logs,
    problems,
    runs,
    schedules,
    schemas,
)
from everesthood.entrypoints.web.express import Express
from everesthood.entrypoints.web.guard import OPERATION_OF
from everesthood.entrypoints.web.middleware import Around
from everesthood.entrypoints.web.parts import Parts

_DESCRIPTION = (
    "Start, watch and stop runs of agents. Send a Kubernetes token as `Authorization: Bearer TOKEN`;"
    f" one made for the audience {names.WEB_AUDIENCE} is enough. RBAC on agents.everesthood.io decides."
    " Refusals are application/problem+json (RFC 9457) with a stable `reason`."
)


def build_app(parts: Parts) -> Around:
    """Return the ASGI application."""
    return Around(Express(build_api(parts)))


def build_api(parts: Parts | None = None) -> FastAPI:
    """Return the API without what stands around each request; without parts it only knows its routes."""
    app = FastAPI(
        title="Everesthood",
        version=__version__,
        description=_DESCRIPTION,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.parts = parts
    # Not include_router, which hides the routes: what stands here is what `unguarded` looks at.
    parts_of_it = (runs, schedules, logs, control, docs)
    app.router.routes += [route for one in parts_of_it for route in one.router.routes]
    if found := unguarded(app.router.routes):
        raise RuntimeError(f"routes without a declared access: {found}")
    problems.register(app)
    plain = app.openapi
    app.openapi = lambda: app.openapi_schema or _completed(plain())  # type: ignore[method-assign]
    return app


def unguarded(app_routes: Sequence[BaseRoute]) -> list[str]:
    """Return the routes that anybody may enter though nobody declared so."""
    return [str(getattr(route, "path", route)) for route in app_routes if not _is_guarded(route)]


def _is_guarded(route: BaseRoute) -> bool:
    if not isinstance(route, APIRoute) or route.operation_id is None:
        return False
    doors = {OPERATION_OF.get(dependency.call) for dependency in route.dependant.dependencies}
    return route.operation_id in PUBLIC or (route.operation_id in REQUIRED and route.operation_id in doors)


def _completed(document: dict[str, Any]) -> dict[str, Any]:
    """Add what FastAPI cannot see: who may call, and shapes that are read or written by hand."""
    shapes = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        shapes.pop(unused, None)
    for shape in (*schemas.BY_HAND, *control_schemas.BY_HAND):
        _add_shape(shapes, shape.model_json_schema(ref_template="#/components/schemas/{model}"))
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    for methods in document["paths"].values():
        for said in methods.values():
            said["x-kubernetes-access"] = str(REQUIRED[said["operationId"]])
            if "application/json" in said["responses"].get("422", {}).get("content", {}):
                del said["responses"]["422"]  # FastAPI's guess; ours are problems, declared where they can be
    return document


def _add_shape(shapes: dict[str, Any], shape: dict[str, Any]) -> None:
    shapes.update(shape.pop("$defs", {}))
    shapes[shape["title"]] = shape
