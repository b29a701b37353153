"""Processes of `everesthood dev` by fork: what they have in common is imported once, not by each of them.

One process forks them all. It is itself forked before anything is imported, so it has neither threads nor
an event loop, and imports while the command imports what it needs itself. Each fork runs the same `main()`
as in a cluster, in a process of its own.
"""

import asyncio
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Final

from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.cli.main import PROCESSES

_COMMON: Final = ("gateway", "scheduler")
"""What these import, all others need as well."""
_ALWAYS: Final = ("gateway", "scheduler", "web")
"""These are forked before anybody asks for them, and import what only they need."""
_MANY: Final = ("worker",)
"""Of these there are several: what they need is imported before the fork, if need be while nobody asks."""
_LINE_BYTES: Final = 1 << 20
_LOST: Final = -signal.SIGKILL
_Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Fork:
    """A forked process: it imports what it needs, and starts when it is told its environment."""

    def __init__(self, pid: int, line: socket.socket, status: _Stream) -> None:
        """Keep what belongs to the process."""
        self.pid = pid
        self.returncode: int | None = None
        self._line = line
        self._writer: asyncio.StreamWriter | None = None
        self._ended = asyncio.create_task(self._wait(status))

    async def begin(self, environment: Mapping[str, str]) -> asyncio.StreamReader:
        """Let it start; return what it says."""
        reader, self._writer = await asyncio.open_connection(sock=self._line, limit=_LINE_BYTES)
        with contextlib.suppress(ConnectionError):  # it ended before; its end is told
            self._writer.write(json.dumps(dict(environment)).encode())
            self._writer.write_eof()
            await self._writer.drain()
        return reader

    async def wait(self) -> int:
        """Return its exit code once it ended; below zero is the signal that ended it."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send a signal unless it ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    async def _wait(self, status: _Stream) -> int:
        reader, writer = status
        said = await _told(reader)
        writer.close()
        self.returncode = int(said) if said else _LOST
        return self.returncode


class Forks:
    """The command's side of the process that forks."""

    def __init__(self, control: socket.socket) -> None:
        """Ask over `control`."""
        self._control = control
        self.began = time.monotonic()
        """When the command was started, or almost."""
        self._asked = {process: [self._ask(process)] for process in _ALWAYS}

    async def fork(self, process: str) -> Fork:
        """Return a new process of that name, which waits for its environment."""
        asked = self._asked.get(process)
        line, status = asked.pop() if asked else self._ask(process)
        told = await asyncio.open_connection(sock=status)
        pid = await _told(told[0])
        if not pid:
            raise Unavailable("The process that starts the others is gone; start `everesthood dev` again.")
        return Fork(int(pid), line, told)

    def _ask(self, process: str) -> tuple[socket.socket, socket.socket]:
        line, its_line = socket.socketpair()
        status, its_status = socket.socketpair()
        with its_line, its_status:
            line.setblocking(False)
            status.setblocking(False)
            asked = f"{process}\n".encode()
            socket.send_fds(self._control, [asked], [its_line.fileno(), its_status.fileno()])
        return line, status


_opened: list[Forks] = []


def open_forks() -> Forks:
    """Fork the process that forks, unless there is one; to be called before threads and loops are started.

    In a process that is forked later, this never returns: it runs the process to its end.
    """
    if not _opened:
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            ours.close()
            os.setsid()  # Ctrl-C is for the command, which ends the processes in their order
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            process = _Forker(theirs).serve()
            if process:
                import_module(PROCESSES[process]).main()
            sys.exit()
        theirs.close()
        _opened.append(Forks(ours))
    return _opened[0]


class _Forker:
    """The process that forks."""

    def __init__(self, control: socket.socket) -> None:
        """Listen to `control`, and to what the system says of ended forks."""
        self._control = control
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._statuses: dict[int, int] = {}
        """Process → where its end is told."""

    def serve(self) -> str:
        """Fork what is asked for until nobody can ask any more; in a fork, return its name."""
        for process in _COMMON:
            import_module(PROCESSES[process])
        gc.freeze()  # so that no collection touches, and copies, what the forks share
        signal.set_wakeup_fd(self._wake.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as ready:
            ready.register(self._control, selectors.EVENT_READ, self._fork)
            ready.register(self._woken, selectors.EVENT_READ, self._reap)
            later = [*_MANY]
            while True:
                asked = ready.select(0 if later else None)
                for key, _ in asked:
                    end = key.data()
                    if end is not None:
                        return str(end)
                if later and not asked:
                    import_module(PROCESSES[later.pop()])
                    gc.freeze()

    def _fork(self) -> str | None:
        """Fork the process that is asked for; return its name in it, and nothing when nobody asks."""
        asked, fds, *_ = socket.recv_fds(self._control, 256, 2)  # one request: its descriptors end it
        if not asked:
            signal.set_wakeup_fd(-1)  # of their ends nobody is told: this process ends first
            for pid in self._statuses:
                os.kill(pid, signal.SIGTERM)
            return ""
        process, (line, status) = asked.decode().strip(), fds
        if process in _MANY:
            import_module(PROCESSES[process])
        pid = os.fork()
        if pid == 0:
            os.close(status)
            self._leave()
            return process if _become(process, line) else ""
        os.close(line)
        self._statuses[pid] = status
        _tell(status, pid)
        return None

    def _reap(self) -> None:
        """Tell of each fork that ended."""
        self._woken.recv(4096)
        while self._statuses:
            pid, how = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            status = self._statuses.pop(pid)
            _tell(status, os.waitstatus_to_exitcode(how))
            os.close(status)

    def _leave(self) -> None:
        """Let go, in a fork, of what the forking process has."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for end in (self._control, self._woken, self._wake):
            end.close()
        for status in self._statuses.values():
            os.close(status)


def _tell(status: int, number: int) -> None:
    with contextlib.suppress(ConnectionError):  # whoever asked does not want to know any more
        os.write(status, f"{number}\n".encode())


async def _told(status: asyncio.StreamReader) -> bytes:
    """Return a line, empty when the process that tells is gone."""
    try:
        return await status.readline()
    except ConnectionError:
        return b""


def _become(process: str, line: int) -> bool:
    """Import, and take the environment as a new interpreter would; False when none comes."""
    os.setsid()
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    for out in (1, 2):
        os.dup2(line, out)
    import_module(PROCESSES[process])
    told = b"".join(iter(functools.partial(os.read, line, _LINE_BYTES), b""))
    os.close(line)
    if not told:
        return False
    environment = json.loads(told)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    return True
