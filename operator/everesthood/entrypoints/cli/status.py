"""`status`: can the API be reached, does it know you, can it do its work; and how is one instance."""

import json
import time
from typing import Annotated, Any

import typer

from everesthood import __version__
from everesthood.entrypoints.cli import instances, show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Stopped
from everesthood.entrypoints.cli.options import Format, Namespace, Output, open_api


def status(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of an AgentInstance, to see how it is.")] = "",
    *,
    namespace: Namespace = "",
    output: Output = Format.TEXT,
) -> None:
    """Say whether the API is ready and whether you may use it; with a name, how that instance is."""
    with open_api(context, namespace) as api:
        if name:
            seen = instances.look(api, name)
            typer.echo(json.dumps(seen, indent=2) if output is Format.JSON else instances.text(seen))
            raise typer.Exit(seen["exitCode"])
        found = _look(api)
    if output is Format.JSON:
        typer.echo(json.dumps(found, indent=2))
    else:
        rows = [(name, one["state"], one["detail"]) for name, one in found["parts"].items()]
        typer.echo(show.table(rows, ("PART", "STATE", "DETAIL")))
    raise typer.Exit(found["exitCode"])


def _look(api: Api) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        version = api.public("/openapi.json")["info"]["version"]
    except Stopped as stopped:
        return _answer(stopped, api=("unreachable", stopped.message))
    took = f"{(time.perf_counter() - started) * 1000:.0f} ms"
    reached = ("reachable", f"{api.address}, version {version}, this program {__version__}, {took}")
    try:
        api.call("GET", "runs", query={"limit": 1})
    except Stopped as stopped:
        return _answer(
            stopped, api=reached, runs=("refused" if stopped.code == 1 else "down", stopped.message)
        )
    ready = ("ready", f"you may list the runs of {api.namespace}")
    try:
        found = api.call("GET", "queues")
    except Stopped as stopped:
        return _answer(None, api=reached, runs=ready, queues=("unknown", stopped.message))
    return _answer(None, api=reached, runs=ready, queues=_queues(found, api.namespace))


def _queues(found: dict[str, Any], namespace: str) -> tuple[str, str]:
    """Return what people hold of the namespace; a hold is no fault."""
    if found["stopped"]:
        return "stopped", f"{namespace} is {show.stopped(found['stopped'])}"
    held = [one["instance"] for one in found["items"] if one["paused"]]
    if held:
        return "paused", f"{len(held)} of {len(found['items'])}: {', '.join(held)}"
    return "ready", f"none of {len(found['items'])} is paused"


def _answer(stopped: Stopped | None, **parts: tuple[str, str]) -> dict[str, Any]:
    said = {name: {"state": state, "detail": detail} for name, (state, detail) in parts.items()}
    return {"ready": stopped is None, "exitCode": int(stopped.code) if stopped else 0, "parts": said}
