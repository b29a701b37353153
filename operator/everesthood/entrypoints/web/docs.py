"""The page about the API: its OpenAPI document, readable and tryable, from this process alone.

No script of another host is loaded, so that it works in a closed network and under a strict policy.
"""

from html import escape
from importlib.resources import files
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

router = APIRouter(include_in_schema=False)
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
)
_ASSETS: Final = {"docs.js": "text/javascript; charset=utf-8", "docs.css": "text/css; charset=utf-8"}


@router.get("/docs", operation_id="getDocs")
async def page(request: Request) -> Response:
    """Show the page."""
    return HTMLResponse(render(request.app.openapi()), headers={"Content-Security-Policy": _POLICY})


@router.get("/docs/{asset}", operation_id="getDocsScript")
async def asset(asset: str) -> Response:
    """Return the page's script or style."""
    if asset not in _ASSETS:
        return Response(status_code=404)
    text = (files(__package__) / "static" / asset).read_text()
    return Response(text, media_type=_ASSETS[asset])


@router.get("/openapi.json", operation_id="getOpenApi")
async def document(request: Request) -> dict[str, Any]:
    """Return the OpenAPI document."""
    return request.app.openapi()  # type: ignore[no-any-return]


def render(openapi: dict[str, Any]) -> str:
    """Return the page."""
    operations = "".join(
        _operation(path, method, said)
        for path, methods in openapi["paths"].items()
        for method, said in methods.items()
    )
    shapes = "".join(_shape(name, shape) for name, shape in openapi["components"]["schemas"].items())
    info = openapi["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(info["title"])}</title><link rel="stylesheet" href="docs/docs.css"></head><body>'
        f"<header><h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>"
        f'<p>{escape(info["description"])}</p><p><a href="openapi.json">openapi.json</a></p>'
        "<label>Token for trying, kept in this page only: "
        '<input id="token" type="password" autocomplete="off" spellcheck="false"></label></header>'
        f"<main>{operations}<h2>Shapes</h2>{shapes}</main>"
        '<script src="docs/docs.js" defer></script></body></html>'
    )


def _operation(path: str, method: str, said: dict[str, Any]) -> str:
    fields = "".join(_parameter(one) for one in said.get("parameters", ()))
    if "requestBody" in said:
        fields += (
            f'<label>body <textarea name="body" rows="4">{_start(said["requestBody"])}</textarea></label>'
        )
    answers = "".join(_answer(code, one) for code, one in said["responses"].items())
    needs = said.get("x-kubernetes-access", "")
    return (
        f'<section id="{escape(said["operationId"])}"><h2><code>{method.upper()}</code> {escape(path)}</h2>'
        f"<p>{escape(said.get('description', ''))}</p><p>Needs <code>{escape(needs)}</code>.</p>"
        f'<form data-method="{method.upper()}" data-path="{escape(path)}">{fields}'
        f"<button>Try it</button></form><pre hidden></pre><table>{answers}</table></section>"
    )


def _start(body: dict[str, Any]) -> str:
    """Return what is in the field for a body before somebody writes there."""
    reference = body["content"]["application/json"]["schema"]["$ref"]
    return '{"input": {}}' if reference.endswith("/RunWish") else "{}"


def _parameter(one: dict[str, Any]) -> str:
    required = " required" if one.get("required") else ""
    return (
        f"<label>{escape(one['name'])} <small>{escape(one['in'])}: {escape(one.get('description', ''))}"
        f'</small><input name="{escape(one["name"])}" data-in="{escape(one["in"])}"{required}></label>'
    )


def _answer(code: str, one: dict[str, Any]) -> str:
    return f"<tr><td>{escape(code)}</td><td>{escape(one['description'])}</td></tr>"


def _shape(name: str, shape: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{escape(one.get('description', ''))}</td></tr>"
        for field, one in shape.get("properties", {}).items()
    )
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3><table>{rows}</table></section>'
