"""`run`, `runs …` and `logs`: start runs, watch them, stop them."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.follow import follow
from everesthood.entrypoints.cli.options import (
    Format,
    Instance,
    Namespace,
    Output,
    RunArgument,
    open_api,
    prog,
)

runs = typer.Typer(no_args_is_help=True)


def run(  # noqa: PLR0913 - Typer reads options from arguments
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the AgentInstance.")],
    *,
    namespace: Namespace = "",
    given: Annotated[
        str, typer.Option("--input", help="Input as JSON, @FILE, or - for standard input.")
    ] = "{}",
    schedule: Annotated[
        str, typer.Option(help="Run this schedule of the AgentInstance now, with its input.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--follow", "-f", help="Show log and steps until the run is over.")
    ] = False,
    idempotency_key: Annotated[str, typer.Option(help="A repeat with the same key gets the same run.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Start a run of an agent."""
    if schedule and given != "{}":
        raise Stopped("--schedule brings its own input.", Code.USAGE, "Leave --input or --schedule out.")
    body = None if schedule else _body(given)
    with open_api(context, namespace) as api:
        place = f"schedules/{quote(schedule, safe='')}/run" if schedule else "runs"
        path = f"instances/{quote(name, safe='')}/{place}"
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        accepted = api.call("POST", path, body=body, headers=headers)
        if wait:
            _follow(context, api, accepted["id"], output)
        elif output is Format.JSON:
            _json(accepted)
        else:
            typer.echo(show.started(accepted, prog(context)))


@runs.command("list")
def list_runs(  # noqa: PLR0913
    context: typer.Context,
    *,
    namespace: Namespace = "",
    instance: Annotated[str, typer.Option("--instance", "-i", help="Only of this AgentInstance.")] = "",
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    cursor: Annotated[str, typer.Option(help="Go on where the page before ended.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """List runs, newest first."""
    with open_api(context, namespace) as api:
        query = {"instance": instance, "state": state, "limit": limit, "cursor": cursor}
        page = api.call("GET", "runs", query=query)
        if output is Format.JSON:
            _json(page)
        elif not page["items"]:
            typer.echo(f"No runs in {api.namespace}. Start one: {prog(context)} run NAME -n {api.namespace}")
        else:
            typer.echo(show.runs(page))
            if page["next"]:
                typer.echo(f"More: --cursor {page['next']}", err=True)


@runs.command("get")
def get_run(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    output: Output = Format.TEXT,
) -> None:
    """Show a run with its steps, input and output."""
    with open_api(context, namespace) as api:
        found = api.call("GET", f"runs/{quote(run, safe='')}", query={"instance": instance})
    _json(found) if output is Format.JSON else typer.echo(show.run(found))


@runs.command("cancel")
def cancel_run(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    output: Output = Format.TEXT,
) -> None:
    """Cancel a run: at once when it waits; when it runs, its worker is told to stop."""
    with open_api(context, namespace) as api:
        found = api.call("POST", f"runs/{quote(run, safe='')}/cancel", query={"instance": instance})
    if output is Format.JSON:
        _json(found)
    elif found["state"] == "cancelled":
        typer.echo(f"Run {found['id']} is cancelled.")
    else:
        typer.echo(f"Run {found['id']} is told to stop; it is {found['state']} until its worker does.")


@runs.command("log")
def log(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    instance: Instance = "",
    output: Output = Format.TEXT,
) -> None:
    """Show a run's log."""
    with open_api(context, namespace) as api:
        if wait:
            _follow(context, api, run, output, instance=instance)
        else:
            _pages(api, run, output, instance)


def logs(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    wait: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run is over.")] = False,
    instance: Instance = "",
    output: Output = Format.TEXT,
) -> None:
    """Show a run's log; the same as `runs log`."""
    log(context, run, namespace=namespace, wait=wait, instance=instance, output=output)


def schedules(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the AgentInstance.")],
    *,
    namespace: Namespace = "",
    output: Output = Format.TEXT,
) -> None:
    """List the schedules of an agent with their next and last times."""
    with open_api(context, namespace) as api:
        found = api.call("GET", f"instances/{quote(name, safe='')}/schedules")
        if output is Format.JSON:
            _json(found)
        elif found["items"]:
            typer.echo(show.schedules(found))
        else:
            typer.echo(f"{api.namespace}/{name} has no schedules; spec.schedules would make some.")


def _pages(api: Api, run: str, output: Format, instance: str) -> None:
    after: int | None = 0
    while after is not None:
        query = {"after": after, "instance": instance}
        page = api.call("GET", f"runs/{quote(run, safe='')}/log", query=query)
        for line in page["items"]:
            typer.echo(json.dumps(line) if output is Format.JSON else show.line(line))
        after = page["next"]


def _follow(context: typer.Context, api: Api, run: str, output: Format, *, instance: str = "") -> None:
    as_json = output is Format.JSON
    found = follow(api, run, instance=instance, prog=prog(context), to_stderr=as_json)
    _json(found) if as_json else typer.echo(show.ended(found, prog(context)))
    if found["state"] != "succeeded":
        raise typer.Exit(Code.REFUSED)


def _body(given: str) -> bytes:
    """Return the request's body; the input goes as it is, so that the API judges what was written."""
    text = _text(given)
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = 'Give --input \'{"key": "value"}\', --input @FILE, or --input - for standard input.'
        raise Stopped(f"The input is not JSON: {error}.", Code.USAGE, hint) from error
    return b'{"input":' + text.encode() + b"}"


def _text(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        if given.startswith("@"):
            return Path(given[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Stopped(f"The input cannot be read: {error}.", Code.USAGE) from error
    return given


def _json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2))
