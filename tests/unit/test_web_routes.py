"""No way into the API without a declared permission, and its pages say so."""

import html
import re
from typing import Annotated

import pytest
from fastapi import APIRouter, Depends

from everesthood.domain.access import PUBLIC, REQUIRED
from everesthood.entrypoints.cli import reference as cli_reference
from everesthood.entrypoints.web import docs, reference
from everesthood.entrypoints.web.app import build_api, unguarded
from everesthood.entrypoints.web.guard import Call, guard


def test_every_route_is_guarded_or_declared_public():
    """What is served is exactly the table of permissions and the public pages."""
    routes = build_api().router.routes

    assert unguarded(routes) == []
    assert {route.operation_id for route in routes} == set(REQUIRED) | PUBLIC


def test_a_route_without_a_declared_access_is_found():
    """Forgotten, unknown, or behind the door of another operation: the process would not start."""
    router = APIRouter()

    @router.get("/forgotten")
    async def forgotten() -> None: ...

    @router.get("/unknown", operation_id="unknown")
    async def unknown() -> None: ...

    @router.get("/bare", operation_id="getRun")
    async def bare() -> None: ...

    @router.get("/{namespace}/mixed", operation_id="getRun")
    async def mixed(call: Annotated[Call, Depends(guard("listRuns"))]) -> None: ...

    @router.get("/{namespace}/good", operation_id="getRun")
    async def good(call: Annotated[Call, Depends(guard("getRun"))]) -> None: ...

    assert unguarded(router.routes) == ["/forgotten", "/unknown", "/bare", "/{namespace}/mixed"]


def test_a_door_for_an_undeclared_operation_cannot_be_made():
    """The table comes first."""
    with pytest.raises(KeyError):
        guard("deleteEverything")


@pytest.mark.parametrize("operation", REQUIRED)
def test_every_permission_is_a_question_for_kubectl(operation):
    """Each is a verb on a subresource, as `kubectl auth can-i` asks it."""
    need = REQUIRED[operation]

    assert need.verb in {"create", "get", "list"}
    assert str(need) == f"{need.verb} agentinstances/{need.subresource}"


def test_a_body_is_begun_as_its_operation_wants_it():
    """On the page, an operation that takes no input is not tried with one."""
    page = docs.render(build_api().openapi())
    bodies = dict(
        re.findall(r'<section id="(\w+)">(?:(?!</section>).)*?<textarea[^>]*>([^<]*)<', page, re.DOTALL)
    )

    assert (html.unescape(bodies["createRun"]), bodies["decideApproval"]) == ('{"input": {}}', "{}")


def test_the_openapi_document_refers_to_nothing_that_is_missing():
    """Generators of clients can follow every reference."""
    document = build_api().openapi()
    text = str(document)

    for name in document["components"]["schemas"]:
        text = text.replace(f"'#/components/schemas/{name}'", "")
    assert "#/components" not in text
    assert all(
        said["x-kubernetes-access"] and "401" in said["responses"] and "503" in said["responses"]
        for methods in document["paths"].values()
        for said in methods.values()
    )


def test_the_reference_pages_are_complete():
    """Every operation, command and shape stands on its page."""
    pages = reference.files() | cli_reference.files()

    for need in REQUIRED.values():
        assert f"Needs `{need}`." in pages["docs/reference/api-http.md"]
    for command in (
        "run NAME",
        "runs list",
        "runs cancel RUN",
        "schedules NAME",
        "approve [RUN]",
        "resolve RUN",
        "queue drain NAME",
        "org stop",
        "logs RUN",
        "validate FILES...",
        "migrate",
        "worker",
    ):
        assert f"everesthood {command}" in pages["docs/reference/cli.md"]
    assert "| `SecretNotFound` |" in pages["docs/reference/reasons.md"]
