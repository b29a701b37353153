"""Shows a run as it goes on, and says what it waits for when nothing happens."""

from typing import Any

import typer
from rich.console import Console
from rich.status import Status

from everesthood.entrypoints.cli import show
from everesthood.entrypoints.cli.api import Api, Event, is_over
from everesthood.entrypoints.cli.exits import Code, Stopped

_INTERRUPTED = 130


def follow(api: Api, run: str, *, instance: str, prog: str, to_stderr: bool) -> dict[str, Any]:
    """Show lines and steps until the run is over, and return it."""
    console = Console(stderr=True)
    screen = _Screen(to_stderr)
    try:
        with console.status("Waiting for the run …") as waiting:
            for event in api.follow(run, instance=instance):
                screen.show(event, waiting if console.is_terminal else None)
    except KeyboardInterrupt:
        typer.echo(f"The run goes on. Follow it: {prog} logs {run} -n {api.namespace} -f", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    if screen.run is None or not is_over(screen.run):
        raise Stopped("The stream ended before the run.", Code.UNREACHABLE)
    return screen.run


class _Screen:
    """What was shown; after a lost connection steps and states come again and are not shown again."""

    def __init__(self, to_stderr: bool) -> None:
        self._err = to_stderr
        self._shown: set[tuple[object, ...]] = set()
        self._quiet = 0
        self.run: dict[str, Any] | None = None

    def show(self, event: Event, waiting: Status | None) -> None:
        match event.name:
            case "line":
                typer.echo(show.line(event.data), err=self._err)
            case "step":
                self._once(event.data, "name", "state", "attempt", text=show.step(event.data))
            case "run":
                self._state(event.data, waiting)
            case "":
                self._still(waiting)

    def _state(self, run: dict[str, Any], waiting: Status | None) -> None:
        self.run = run
        if waiting:
            waiting.update(f"{show.state(run)} …")
        if not is_over(run):
            text = f"Run {run['id']} is {show.state(run)}."
            self._once(run, "state", "attempt", "cancelRequested", text=text)

    def _still(self, waiting: Status | None) -> None:
        if waiting is None and self.run is not None:
            typer.echo(f"… still {show.state(self.run)}", err=True)

    def _once(self, data: dict[str, Any], *keys: str, text: str) -> None:
        key = tuple(data[name] for name in keys)
        if key not in self._shown:
            self._shown.add(key)
            typer.echo(text, err=self._err)
