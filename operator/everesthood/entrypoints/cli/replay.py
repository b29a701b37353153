"""`replay`: start runs again that are over."""

import secrets
from collections import Counter
from typing import Annotated, Any
from urllib.parse import quote

import typer

from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.options import Format, Instance, Namespace, Output, open_api, prog
from everesthood.entrypoints.cli.runs import json_text, wish, write_json

_PAGE = 500


def replay(  # noqa: PLR0913 - Typer reads options from arguments
    context: typer.Context,
    run: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Ids of runs.")] = None,
    *,
    namespace: Namespace = "",
    instance: Instance = "",
    reason: Annotated[str, typer.Option(help="With --all: only with this reason.")] = "",
    template: Annotated[str, typer.Option(help="With --all: only of this template.")] = "",
    revision: Annotated[str, typer.Option(help="With --all: only on this revision.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(help="With --all: only with this label, NAME=VALUE; may be repeated.")
    ] = None,
    text: Annotated[
        str, typer.Option(help="With --all: only with this text in the input or the output.")
    ] = "",
    since: Annotated[str, typer.Option(help="With --all: only accepted then or later.")] = "",
    until: Annotated[str, typer.Option(help="With --all: only accepted before then.")] = "",
    not_replayed: Annotated[
        bool, typer.Option("--not-replayed", help="With --all: only without a replay.")
    ] = False,
    state: Annotated[
        list[str] | None, typer.Option(help="With --all: these states instead of dead; may be repeated.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead runs that the filters leave.")] = False,
    given: Annotated[
        str,
        typer.Option("--input", help="New input: JSON, @FILE, or - for standard input."),
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count only; nothing is started.")] = False,
    idempotency_key: Annotated[
        str, typer.Option(help="A repeat of the command with the same key replays no run twice.")
    ] = "",
    output: Output = Format.TEXT,
) -> None:
    """Start runs again that are over: new runs, on the current revision, that name the old ones."""
    if bool(run) == (everything or dry_run):
        hint = "For example: replay --all --instance NAME --reason StepFailed --dry-run"
        raise Stopped("Name runs, or say --all or --dry-run.", Code.USAGE, hint)
    body = wish(json_text(given) if given else None, {})
    key = idempotency_key or secrets.token_hex(16)
    with open_api(context, namespace) as api:
        if run:
            _named(context, api, run, (body, key, instance), output)
            return
        query = {
            "instance": instance, "reason": reason, "state": state, "template": template,
            "revision": revision, "label": label, "text": text, "createdFrom": since, "createdTo": until,
            "replayed": "false" if not_replayed else None, "dryRun": str(dry_run).lower(),
        }  # fmt: skip
        _filtered(api, query, (body, key), output)


def _named(
    context: typer.Context, api: Api, runs: list[str], how: tuple[bytes, str, str], output: Format
) -> None:
    body, key, instance = how
    for run in runs:
        headers = {"Idempotency-Key": key if len(runs) == 1 else f"{key[:200]}-{run}"}
        path = f"runs/{quote(run, safe='')}/replay"
        made = api.call("POST", path, body=body, headers=headers, query={"instance": instance})
        write_json(made) if output is Format.JSON else typer.echo(show.started(made, prog(context)))


def _filtered(api: Api, query: dict[str, Any], how: tuple[bytes, str], output: Format) -> None:
    """Go through all pages; the same key throughout, so that an interrupted command can be repeated."""
    body, key = how
    sums: Counter[str] = Counter()
    refused: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        asked = {**query, "limit": _PAGE, "cursor": cursor}
        page = api.call("POST", "runs/replay", body=body, headers={"Idempotency-Key": key}, query=asked)
        sums.update({name: page[name] for name in ("matched", "replayed")})
        refused += page["refused"]
        cursor = page["next"]
        if cursor is None:
            break
    dry = query["dryRun"] == "true"
    if output is Format.JSON:
        write_json({"matched": sums["matched"], "replayed": sums["replayed"], "refused": refused})
    else:
        typer.echo(show.replayed(sums, refused, dry=dry))
    if refused:
        raise typer.Exit(Code.REFUSED)
