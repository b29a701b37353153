"""`everesthood dev`: an installation on this machine, for whoever writes an agent; reloads on save."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from everesthood.bootstrap.dev import Site, local_site
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.forks import Forks, open_forks
from everesthood.entrypoints.cli.saves import Stamps, changes, stamps
from everesthood.entrypoints.cli.stage import Stage
from everesthood.entrypoints.cli.telling import say, tell_runs


def dev(
    paths: Annotated[list[Path], typer.Argument(help="Manifests, or folders of manifests and code.")],
    *,
    port: Annotated[int, typer.Option(help="Port of the API on 127.0.0.1.")] = 8080,
    allow: Annotated[
        list[str] | None,
        typer.Option(help="An address of this machine that agents may call, host:port; may be repeated."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Folder for the runs; without it, one in /var/tmp for these files.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the runs of earlier times.")] = False,
) -> None:
    """Run agents from files on this machine, without Kubernetes, until Ctrl-C."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise Stopped(
            f"There is no {', '.join(missing)}.", Code.USAGE, "Name files or folders with manifests."
        )
    folders = [path.resolve() for path in paths]
    place = state.resolve() if state else _place(folders)
    allowed = frozenset(allow or ())
    try:
        asyncio.run(_serve(folders, place, open_forks(), port=port, internal_hosts=allowed, fresh=fresh))
    except EveresthoodError as error:
        raise Stopped(error.message, Code.REFUSED) from None


def _place(folders: Sequence[Path]) -> Path:
    """Return the folder of this project's rows: one that the system's users can reach, as PostgreSQL must."""
    name = hashlib.sha256("\n".join(map(str, folders)).encode()).hexdigest()[:12]
    return Path(f"/var/tmp/everesthood-{os.geteuid()}") / name  # noqa: S108 - made with modes of its own


async def _serve(
    paths: Sequence[Path],
    place: Path,
    forks: Forks,
    *,
    port: int,
    internal_hosts: frozenset[str],
    fresh: bool,
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        stages: list[Stage] = []

        def begin(site: Site) -> None:
            stages.append(Stage(site, paths, forks))
            stages[0].open()

        async def end() -> None:
            for begun in stages:
                await begun.close()

        opening = local_site(
            place,
            port=port,
            internal_hosts=internal_hosts,
            inherited=os.environ,
            fresh=fresh,
            meanwhile=begin,
        )
        stack.push_async_callback(end)
        site = await stack.enter_async_context(opening)
        stack.push_async_callback(end)  # before the servers, too: workers hand in what they hold
        (stage,) = stages
        stage.record_there.set()
        # Before the first look at the files: what is saved from now on counts.
        seen = await asyncio.to_thread(stamps, paths)
        await stage.load()
        await stage.ready(stop)
        if not stop.is_set():
            _welcome(site, stage, time.monotonic() - forks.began)
            watching = [
                asyncio.create_task(_reload(stage, paths, seen)),
                asyncio.create_task(tell_runs(site, stage.namespaces)),
            ]
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*watching, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in (*watching, stopping):
                task.cancel()
            for task in done - {stopping}:
                task.result()
        say("dev", "stops; runs that are not over go on at the next start")


async def _reload(stage: Stage, paths: Sequence[Path], seen: Stamps) -> None:
    async for changed in changes(paths, seen):
        say("dev", f"{', '.join(sorted(changed))} changed")
        await stage.load()


def _welcome(site: Site, stage: Stage, seconds: float) -> None:
    say("dev", f"ready after {seconds:.1f} s: http://127.0.0.1:{site.port}/docs")
    lines = ["", "In another terminal:", f"  export EVERESTHOOD_SERVER=http://127.0.0.1:{site.port}",
             f"  export EVERESTHOOD_TOKEN={site.token}"]  # fmt: skip
    lines += [stage.first_run(instance) for instance in stage.published.instances[:3]]
    sys.stdout.write("\n".join([*lines, "", ""]))
    sys.stdout.flush()
