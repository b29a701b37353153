"""What `everesthood dev` says: lines under the name of who speaks, and what becomes of runs."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from everesthood.bootstrap.dev import Site
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.runs import FINAL, RunState
from everesthood.usecases.ports.record import RunFilter

_LOOK_SECONDS: Final = 0.3
_NAME_WIDTH: Final = 22


def say(who: str, what: str) -> None:
    """Write what somebody says, each line under its name."""
    stamp = time.strftime("%H:%M:%S")
    for line in what.splitlines() or [""]:
        sys.stdout.write(f"{stamp} {who:<{_NAME_WIDTH}} {line}\n")
    sys.stdout.flush()


async def tell_runs(site: Site, namespaces: Callable[[], Iterable[str]]) -> None:
    """Say what becomes of runs, and their log."""
    told: dict[str, tuple[str, int]] = {}
    since = time.time()
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        for namespace in namespaces():
            with contextlib.suppress(EveresthoodError):
                await _tell_namespace(site, namespace, told, since)


async def _tell_namespace(site: Site, namespace: str, told: dict[str, tuple[str, int]], since: float) -> None:
    page = await site.runs.list(RunFilter(namespace=namespace, limit=20))
    for run in reversed(page.runs):
        state, line = told.get(run.id, ("", 0))
        if run.created_at.timestamp() < since and not state and run.state in FINAL:
            continue
        if state in FINAL:
            continue
        who = f"run/{run.instance}"
        for entry in await site.runs.log(run.id, line):
            where = f"{entry.step}: " if entry.step else ""
            say(who, f"{where}{entry.message}")
            line = entry.seq
        if state != run.state:
            say(who, f"{run.id} is {run.state}{f': {run.message}' if run.message else ''}")
            if run.state is RunState.WAITING:
                say(who, f"answer: everesthood approve {run.id} -n {namespace} [--reject]")
        told[run.id] = (run.state, line)
