"""`approve` and `resolve`: what people decide about runs that wait for them."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import quote

import typer

from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.options import (
    Format,
    Instance,
    Namespace,
    Output,
    RunArgument,
    open_api,
    prog,
)
from everesthood.entrypoints.cli.runs import json_text, wish, write_json

_PAGE = 200


def approve(  # noqa: PLR0913 - Typer reads options from arguments
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Id of the run; without it, what waits is listed.")] = "",
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    step: Annotated[str, typer.Option(help="Step that asks; may be left out where only one does.")] = "",
    reject: Annotated[bool, typer.Option("--reject", help="Say no.")] = False,
    comment: Annotated[str, typer.Option(help="Why, for whoever looks later.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Answer what a run asks, or list what waits for an answer."""
    if not run and (step or reject or comment):
        raise Stopped("Name the run that you decide about.", Code.USAGE)
    with open_api(context, namespace) as api:
        if run:
            _answer(api, (run, step, instance), {"approved": not reject, "comment": comment}, output)
            return
        waiting = _waiting(api, instance)
        if output is Format.JSON:
            write_json({"items": waiting})
        elif waiting:
            typer.echo(show.approvals(waiting))
            typer.echo(f"Answer: {prog(context)} approve RUN -n {api.namespace} [--reject]", err=True)
        else:
            typer.echo(f"Nothing waits for a person in {api.namespace}.")


def _waiting(api: Api, instance: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        query = {"state": "waiting", "instance": instance, "limit": _PAGE, "cursor": cursor}
        page = api.call("GET", "runs", query=query)
        items += page["items"]
        cursor = page["next"]
        if cursor is None:
            return items


def _answer(api: Api, about: tuple[str, str, str], said: dict[str, object], output: Format) -> None:
    run, step, instance = about
    path, query = f"runs/{quote(run, safe='')}", {"instance": instance}
    step = step or _only_step(api.call("GET", path, query=query))
    body = wish(None, said)
    found = api.call("POST", f"{path}/steps/{quote(step, safe='')}/approval", body=body, query=query)
    if output is Format.JSON:
        write_json(found)
    else:
        what = "approved" if said["approved"] else "rejected"
        typer.echo(f"steps.{step} of run {found['id']} is {what}; the run is {show.state(found)}.")


def _only_step(run: dict[str, Any]) -> str:
    steps: Sequence[str] = [asked["step"] for asked in run["approvals"]]
    if len(steps) == 1:
        return steps[0]
    if steps:
        raise Stopped(f"Run {run['id']} asks in several steps.", Code.USAGE, f"--step: {', '.join(steps)}")
    raise Stopped(f"Run {run['id']} asks nothing: it is {show.state(run)}.", Code.REFUSED)


def resolve(  # noqa: PLR0913
    context: typer.Context,
    run: RunArgument,
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    step: Annotated[
        str, typer.Option(help="Step in doubt, as `runs get` shows it; may be left out where only one is.")
    ] = "",
    done: Annotated[
        str, typer.Option(help="It took effect: its output as JSON, @FILE, or - for standard input.")
    ] = "",
    repeat: Annotated[bool, typer.Option("--repeat", help="It took no effect: do it again.")] = False,
    give_up: Annotated[bool, typer.Option("--give-up", help="End the run as dead.")] = False,
    comment: Annotated[str, typer.Option(help="Why, for whoever looks later.")] = "",
    output: Output = Format.TEXT,
) -> None:
    """Say what became of a step whose outcome is unknown, so that its ambiguous run goes on or ends."""
    chosen = [name for name, is_set in (("done", done), ("repeat", repeat), ("giveUp", give_up)) if is_set]
    if len(chosen) != 1:
        hint = "For example: resolve RUN --done '{\"status\": 201}' --comment 'the bank has it'"
        raise Stopped("Say one of --done OUTPUT, --repeat and --give-up.", Code.USAGE, hint)
    fields = {"outcome": chosen[0], "step": step or None, "comment": comment or None}
    body = wish(None, fields)
    if done:
        body = b'{"output":' + json_text(done).encode() + b"," + body[1:]
    with open_api(context, namespace) as api:
        path = f"runs/{quote(run, safe='')}/resolve"
        found = api.call("POST", path, body=body, query={"instance": instance})
    if output is Format.JSON:
        write_json(found)
    else:
        typer.echo(f"Run {found['id']} is {show.state(found)}.")
