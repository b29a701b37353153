"""`run`, `runs …` and `logs`: start runs, watch them, stop them."""

import json
import sys
from collections.abc import Mapping, Sequence
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
_CALLS = 100


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
    priority: Annotated[int, typer.Option(min=0, max=9, help="The greatest starts first.")] = 0,
    ttl: Annotated[
        int, typer.Option(min=0, help="Expire if nobody has started it after so many seconds; 0 for never.")
    ] = 0,
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE to find it by; may be repeated.")
    ] = None,
    dedupe: Annotated[
        str,
        typer.Option(help="KEY, KEY:throttle:SECONDS or KEY:debounce:SECONDS: such requests are one run."),
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Start a run of an agent."""
    if schedule and given != "{}":
        raise Stopped("--schedule brings its own input.", Code.USAGE, "Leave --input or --schedule out.")
    options = {
        "priority": priority or None,
        "ttlSeconds": ttl or None,
        "labels": _labels(label),
        "dedupe": _dedupe(dedupe),
    }
    body = None if schedule else wish(json_text(given), options)
    with open_api(context, namespace) as api:
        place = f"schedules/{quote(schedule, safe='')}/run" if schedule else "runs"
        path = f"instances/{quote(name, safe='')}/{place}"
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        accepted = api.call("POST", path, body=body, headers=headers)
        if wait:
            _follow(context, api, accepted["id"], output)
        elif output is Format.JSON:
            write_json(accepted)
        else:
            typer.echo(show.started(accepted, prog(context)))


@runs.command("list")
def list_runs(  # noqa: PLR0913
    context: typer.Context,
    *,
    namespace: Namespace = "",
    instance: Annotated[str, typer.Option("--instance", "-i", help="Only of this AgentInstance.")] = "",
    state: Annotated[list[str] | None, typer.Option(help="Only in this state; may be repeated.")] = None,
    reason: Annotated[str, typer.Option(help="Only with this reason.")] = "",
    template: Annotated[str, typer.Option(help="Only of this template.")] = "",
    revision: Annotated[str, typer.Option(help="Only on this revision.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="Only with this label, NAME=VALUE; may be repeated.")
    ] = None,
    text: Annotated[str, typer.Option(help="Only with this text in the input or the output.")] = "",
    since: Annotated[str, typer.Option(help="Only accepted then or later, such as 2026-11-25T12:00Z.")] = "",
    until: Annotated[str, typer.Option(help="Only accepted before then.")] = "",
    not_replayed: Annotated[bool, typer.Option("--not-replayed", help="Only without a replay.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many.")] = 20,
    cursor: Annotated[str, typer.Option(help="Go on where the page before ended.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """List runs, newest first."""
    with open_api(context, namespace) as api:
        query = {
            "instance": instance, "state": state, "reason": reason, "template": template,
            "revision": revision, "label": label, "text": text, "createdFrom": since, "createdTo": until,
            "replayed": "false" if not_replayed else None,
        }  # fmt: skip
        page = _page(api, query, limit, cursor)
        if output is Format.JSON:
            write_json(page)
        elif not page["items"]:
            typer.echo(_none(context, api, page))
        else:
            typer.echo(show.runs(page))
            if page["next"]:
                typer.echo(f"More: --cursor {page['next']}", err=True)


def _page(api: Api, query: Mapping[str, object], limit: int, cursor: str) -> dict[str, Any]:
    """Return as many runs as are wanted; each call looks at a bounded number only."""
    items: list[dict[str, Any]] = []
    for _ in range(_CALLS):
        asked = {**query, "limit": limit - len(items), "cursor": cursor}
        page = api.call("GET", "runs", query=asked)
        items += page["items"]
        cursor = page["next"]
        if cursor is None or len(items) >= limit:
            break
    return {"items": items, "next": cursor}


def _none(context: typer.Context, api: Api, page: Mapping[str, Any]) -> str:
    if page["next"]:
        return f"None of the newest runs match. Look further: --cursor {page['next']}"
    return f"No runs in {api.namespace}. Start one: {prog(context)} run NAME -n {api.namespace}"


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
    if output is Format.JSON:
        write_json(found)
        return
    typer.echo(show.run(found))
    if found["nextSteps"] is not None:
        where = f"{run} -n {api.namespace} --after {found['nextSteps']}"
        typer.echo(f"More steps: {prog(context)} runs steps {where}", err=True)


@runs.command("steps")
def steps(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    after: Annotated[int, typer.Option(min=0, help="Only steps behind this place.")] = 0,
    instance: Instance = "",
    output: Output = Format.TEXT,
) -> None:
    """List all steps of a run, in the order of their last change."""
    with open_api(context, namespace) as api:
        following: int | None = after
        while following is not None:
            query = {"after": following, "limit": 500, "instance": instance}
            page = api.call("GET", f"runs/{quote(run, safe='')}/steps", query=query)
            for found in page["items"]:
                typer.echo(json.dumps(found) if output is Format.JSON else show.step(found))
            following = page["next"]


@runs.command("output")
def step_output(
    context: typer.Context,
    run: RunArgument,
    step: Annotated[str, typer.Argument(help="Name of the step, as `runs steps` shows it.")],
    *,
    namespace: Namespace = "",
    instance: Instance = "",
) -> None:
    """Show what one step of a run came to, as JSON."""
    with open_api(context, namespace) as api:
        place = f"runs/{quote(run, safe='')}/steps/{quote(step, safe='/')}/output"
        found = api.call("GET", place, query={"instance": instance})
    write_json(found)


@runs.command("cancel")
def cancel_run(
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    grace: Annotated[
        int, typer.Option(min=0, max=600, help="Seconds that a running one has to come to an end.")
    ] = 10,
    output: Output = Format.TEXT,
) -> None:
    """Cancel a run: at once when it waits; when it runs, its worker is told to stop."""
    with open_api(context, namespace) as api:
        query = {"instance": instance, "graceSeconds": grace}
        found = api.call("POST", f"runs/{quote(run, safe='')}/cancel", query=query)
    if output is Format.JSON:
        write_json(found)
    elif found["state"] == "cancelled":
        typer.echo(f"Run {found['id']} is cancelled.")
    else:
        typer.echo(f"Run {found['id']} is told to stop; it ends within {grace} s, or a moment after.")


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
            write_json(found)
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
    write_json(found) if as_json else typer.echo(show.ended(found, prog(context)))
    if found["state"] != "succeeded":
        raise typer.Exit(Code.REFUSED)


def wish(given: str | None, options: Mapping[str, object]) -> bytes:
    """Return the request's body; the input goes as it is, so that the API judges what was written."""
    fields = [] if given is None else [b'"input":' + given.encode()]
    fields += [
        f"{json.dumps(key)}:{json.dumps(value)}".encode()
        for key, value in options.items()
        if value not in (None, {})
    ]
    return b"{" + b",".join(fields) + b"}"


def _labels(given: Sequence[str] | None) -> dict[str, str]:
    pairs = [one.partition("=") for one in given or ()]
    if any(not sign for _, sign, _ in pairs):
        raise Stopped("A label is NAME=VALUE.", Code.USAGE)
    return {name: value for name, _, value in pairs}


def _dedupe(given: str) -> dict[str, object] | None:
    if not given:
        return None
    key, mode, seconds = [*given.rsplit(":", 2), "", ""][:3] if given.count(":") > 1 else (given, "", "")
    if mode not in {"throttle", "debounce"}:
        return {"key": given}
    if not seconds.isdecimal():
        raise Stopped(f"{seconds!r} is not a number of seconds.", Code.USAGE)
    return {"key": key, "mode": mode, "seconds": int(seconds)}


def json_text(given: str) -> str:
    """Return what was given, from a file or standard input where it says so; it must be JSON."""
    text = _text(given)
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = 'Give --input \'{"key": "value"}\', --input @FILE, or --input - for standard input.'
        raise Stopped(f"The input is not JSON: {error}.", Code.USAGE, hint) from error
    return text


def _text(given: str) -> str:
    try:
        if given == "-":
            return sys.stdin.buffer.read().decode("utf-8-sig")
        if given.startswith("@"):
            return Path(given[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Stopped(f"The input cannot be read: {error}.", Code.USAGE) from error
    return given


def write_json(value: object) -> None:
    """Write an answer as JSON."""
    typer.echo(json.dumps(value, indent=2))
