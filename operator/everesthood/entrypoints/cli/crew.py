"""The processes of `everesthood dev`: those of an installation, each started anew when it ends by itself."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from everesthood.bootstrap.dev import stop_process
from everesthood.entrypoints.cli.forks import Fork, Forks

Say = Callable[[str, str], None]
"""Takes who speaks and what."""

_PAUSE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 10.0
_OWN: Final = frozenset({"event", "level", "logger", "timestamp", "process", "exception"})
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@dataclass(slots=True, kw_only=True)
class Member:
    """A process that is kept running until it is dismissed."""

    name: str
    process: str
    environment: Mapping[str, str]
    metrics_port: int
    forks: Forks
    needed: Callable[[], Awaitable[object]]
    """Waits for what the process needs: it begins after that, and imports in the meantime."""
    quietest: str
    """Lines of a lower level are not shown."""
    say: Say
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _running: Fork | None = field(default=None, init=False)
    _dismissed: bool = field(default=False, init=False)
    _held_back: list[str] = field(default_factory=list, init=False)
    """What it said before it was ready: that it waits for the others, most likely."""
    can_serve: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    """Set once it was ready."""

    def start(self) -> None:
        """Start, and start again whenever it ends."""
        self._task = asyncio.create_task(self._keep(), name=self.name)

    async def dismiss(self) -> None:
        """End it in order."""
        self._dismissed = True
        if self._running is not None:
            await stop_process(self._running, signal.SIGTERM, _STOP_SECONDS)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def is_ready(self) -> bool:
        """Return whether the process says that it can serve."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
        except OSError:
            return False
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            ready = b" 200 " in await reader.readline()
        except OSError:
            return False
        finally:
            writer.close()
        if ready:
            self.can_serve.set()
        return ready

    def speak(self) -> None:
        """Say what was held back, where it matters after all."""
        for line in self._held_back:
            self.say(self.name, line)
        self._held_back = []

    async def _keep(self) -> None:
        while not self._dismissed:
            self._running = await self.forks.fork(self.process)
            await self.needed()
            await self._listen(await self._running.begin(self.environment))
            code = await self._running.wait()
            if not self._dismissed:
                self.speak()
                self.say(self.name, f"ended with code {code}; starting it again")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self, said: asyncio.StreamReader) -> None:
        async for line in said:
            shown = readable(line.decode(errors="replace").rstrip(), quietest=self.quietest)
            if shown and (self.can_serve.is_set() or not is_below(line, "error")):
                self.say(self.name, shown)
            elif shown:
                self._held_back = [*self._held_back[-20:], shown]


def is_below(line: bytes, level: str) -> bool:
    """Return whether a JSON log line is of a lower level; other lines are of none."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return False
    said = entry.get("level") if isinstance(entry, dict) else None
    return said in _LEVELS and _LEVELS.index(said) < _LEVELS.index(level)


def readable(line: str, *, quietest: str = "debug") -> str:
    """Return a JSON log line as people read it, empty when it is too quiet; other lines as they are."""
    try:
        entry: Any = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    level = str(entry.get("level", "info"))
    if level in _LEVELS and _LEVELS.index(level) < _LEVELS.index(quietest):
        return ""
    more = " ".join(f"{name}={value}" for name, value in entry.items() if name not in _OWN)
    mark = "" if level in ("debug", "info") else f"{level}: "
    return f"{mark}{entry['event']} {more}".rstrip() + (
        f"\n{entry['exception']}" if "exception" in entry else ""
    )
