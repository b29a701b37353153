"""The processes of `everesthood dev`: those of an installation, each started anew when it ends by itself."""

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from everesthood.bootstrap.dev import stop_process
from everesthood.entrypoints.cli.main import PROCESSES

Say = Callable[[str, str], None]
"""Takes who speaks and what."""

_PAUSE_SECONDS: Final = 1.0
_STOP_SECONDS: Final = 10.0
_LINE_BYTES: Final = 1 << 20
_OWN: Final = frozenset({"event", "level", "logger", "timestamp", "process", "exception"})
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@dataclass(slots=True, kw_only=True)
class Member:
    """A process that is kept running until it is dismissed."""

    name: str
    process: str
    environment: Mapping[str, str]
    metrics_port: int
    quietest: str
    """Lines of a lower level are not shown."""
    say: Say
    _task: asyncio.Task[None] | None = field(default=None, init=False)
    _running: asyncio.subprocess.Process | None = field(default=None, init=False)
    _dismissed: bool = field(default=False, init=False)
    _held_back: list[str] = field(default_factory=list, init=False)
    """What it said before it was ready: that it waits for the others, most likely."""
    _was_ready: bool = field(default=False, init=False)

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
        self._was_ready = self._was_ready or ready
        return ready

    def speak(self) -> None:
        """Say what was held back, where it matters after all."""
        for line in self._held_back:
            self.say(self.name, line)
        self._held_back = []

    async def _keep(self) -> None:
        while not self._dismissed:
            # A session of its own: Ctrl-C is for us, and we end the members in their order.
            self._running = await asyncio.create_subprocess_exec(
                sys.executable, "-m", PROCESSES[self.process],
                env=dict(self.environment), start_new_session=True, limit=_LINE_BYTES,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            await self._listen(self._running)
            code = await self._running.wait()
            if not self._dismissed:
                self.speak()
                self.say(self.name, f"ended with code {code}; starting it again")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        async for line in process.stdout:
            shown = readable(line.decode(errors="replace").rstrip(), quietest=self.quietest)
            if shown and (self._was_ready or not is_below(line, "error")):
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
