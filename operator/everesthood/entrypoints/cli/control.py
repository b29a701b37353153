"""`queue …` and `org …`: hold a queue or a whole organisation, and let it go."""

import time
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.options import Format, Namespace, Output, open_api, prog
from everesthood.entrypoints.cli.runs import wish, write_json

queue = typer.Typer(no_args_is_help=True)
org = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the AgentInstance.")]
_LOOK_SECONDS = 1.0
_INTERRUPTED = 130


@queue.command("show")
def show_queue(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the AgentInstance; without it, all are listed.")] = "",
    *,
    namespace: Namespace = "",
    output: Output = Format.TEXT,
) -> None:
    """Show what holds a queue and what is in it."""
    with open_api(context, namespace) as api:
        if name:
            found = api.call("GET", _path(name))
            write_json(found) if output is Format.JSON else typer.echo(show.queue(found))
            return
        found = api.call("GET", "queues")
        if output is Format.JSON:
            write_json(found)
        else:
            typer.echo(show.queues(found) if found["items"] else f"No queues in {api.namespace}.")


@queue.command("pause")
def pause(
    context: typer.Context, name: Name, *, namespace: Namespace = "", output: Output = Format.TEXT
) -> None:
    """Hand nothing out any more: runs are accepted and wait, those that run go on."""
    with open_api(context, namespace) as api:
        _say(api.call("POST", _path(name, "/pause")), output)


@queue.command("resume")
def resume(
    context: typer.Context, name: Name, *, namespace: Namespace = "", output: Output = Format.TEXT
) -> None:
    """Hand out again."""
    with open_api(context, namespace) as api:
        _say(api.call("POST", _path(name, "/resume")), output)


@queue.command("drain")
def drain(
    context: typer.Context,
    name: Name,
    *,
    namespace: Namespace = "",
    timeout: Annotated[int, typer.Option(min=0, help="Wait so many seconds at most; 0 for no end.")] = 0,
    output: Output = Format.TEXT,
) -> None:
    """Pause a queue and wait until nothing of it runs; it stays paused."""
    with open_api(context, namespace) as api:
        found = api.call("POST", _path(name, "/pause"))
        try:
            found = _until_empty(api, name, found, timeout)
        except KeyboardInterrupt:
            typer.echo(f"It stays paused. Resume it: {prog(context)} queue resume {name}", err=True)
            raise typer.Exit(_INTERRUPTED) from None
    _say(found, output)


def _until_empty(
    api: Api, name: str, found: dict[str, Any], timeout: int, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Look until nothing runs, and say each change on the way."""
    ends = time.monotonic() + timeout if timeout else None
    told = None
    while found["running"]:
        if told != found["running"]:
            told = found["running"]
            typer.echo(f"{told} still running …", err=True)
        if ends is not None and time.monotonic() >= ends:
            what = f"{told} of {api.namespace}/{name} still run after {timeout} s; the queue stays paused."
            raise Stopped(what, Code.REFUSED)
        sleep(_LOOK_SECONDS)
        found = api.call("GET", _path(name))
    return found


def _path(name: str, what: str = "") -> str:
    return f"instances/{quote(name, safe='')}/queue{what}"


def _say(found: dict[str, Any], output: Format) -> None:
    write_json(found) if output is Format.JSON else typer.echo(show.queue(found))


@org.command("stop")
def stop(
    context: typer.Context,
    *,
    namespace: Namespace = "",
    message: Annotated[str, typer.Option("--message", "-m", help="Why; whoever is refused may see it.")] = "",
    finish: Annotated[bool, typer.Option("--finish", help="Let what runs come to its end.")] = False,
    output: Output = Format.TEXT,
) -> None:
    """Stop everything in a namespace at once: nothing is accepted or started, what runs is cancelled."""
    body = wish(None, {"message": message or None, "runs": "finish" if finish else None})
    with open_api(context, namespace) as api:
        found = api.call("POST", "stop", body=body)
        if output is Format.JSON:
            write_json(found)
            return
        typer.echo(f"{api.namespace} is {show.stopped(found)}.")
        typer.echo(f"Start it again: {prog(context)} org start -n {api.namespace}")


@org.command("start")
def start(context: typer.Context, *, namespace: Namespace = "", output: Output = Format.TEXT) -> None:
    """Lift the stop of a namespace; queues that are paused stay so."""
    with open_api(context, namespace) as api:
        found = api.call("POST", "start")
        if output is Format.JSON:
            write_json(found)
            return
        typer.echo(f"{api.namespace} works again.")
        if found["items"]:
            typer.echo(show.queues(found))
