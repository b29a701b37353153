"""The processes of an installation and who looks after them: what a kubelet does, without one."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.launcher import children
from tests.support.postgres import PostgresServer
from tests.support.valkey import ValkeyServer

_LOOK_SECONDS = 0.05


@dataclass(slots=True, kw_only=True)
class Member:
    """One process, started again whenever it ends."""

    name: str
    module: str
    environment: Mapping[str, str]
    metrics_port: int
    log: Path
    skew: float = 0.0
    stays_down: bool = False
    process: asyncio.subprocess.Process | None = None
    started: int = 0
    _task: asyncio.Task[None] | None = None
    _gone: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep())

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def send(self, how: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, how)

    async def restart(self, *, skew: float = 0.0) -> None:
        """Kill it, and return once its successor serves."""
        self.skew = skew
        await self.kill()
        await self.until_ready()

    async def kill(self) -> None:
        """Kill it; its successor is on its way unless it is to stay down."""
        before = self.started
        self.send(signal.SIGKILL)
        while self.started == before and not self.stays_down:
            await asyncio.sleep(_LOOK_SECONDS)

    async def until_gone(self, seconds: float = 15.0) -> None:
        """Wait until it has ended as it was told to; kill it when it does not."""
        assert self.process is not None
        try:
            async with asyncio.timeout(seconds):
                await self.process.wait()
        except TimeoutError:
            self.send(signal.SIGKILL)
            await self.process.wait()

    async def until_ready(self, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not await self.is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is not ready:\n{self.log.read_text()[-4000:]}")
            await asyncio.sleep(_LOOK_SECONDS)

    async def is_ready(self) -> bool:
        """Return whether it says that it can serve."""
        return b" 200 " in (await self._look("/readyz")).partition(b"\r\n")[0]

    async def figure(self, name: str) -> float:
        """Return one of its figures, 0 where it tells none."""
        lines = (await self._look("/metrics")).decode().splitlines()
        return sum(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    async def _look(self, path: str) -> bytes:
        """Return what it answers, nothing when it does not."""
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics_port)
                try:
                    writer.write(
                        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
                    )
                    return await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return b""

    async def end(self) -> None:
        """End it for good."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.process is not None and self.process.returncode is None:
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            await self.process.wait()

    async def _keep(self) -> None:
        while True:
            while self.stays_down:
                await asyncio.sleep(_LOOK_SECONDS)
            with self.log.open("ab") as log:
                self.process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "tests.chaos.launcher", self.module,
                    env={**self.environment, "CHAOS_SKEW": str(self.skew)},
                    stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self.started += 1
            await self.process.wait()


class Servers:
    """PostgreSQL with fsync on, and a Redis that forgets; each started again when it is gone."""

    def __init__(self, postgres: PostgresServer, redis: ValkeyServer) -> None:
        self.postgres = postgres
        self.redis = redis
        self._tasks: list[asyncio.Task[None]] = []
        self._all = (postgres, redis)
        self._starting = 0

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep(server)) for server in self._all]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def until_back(self, victims: list[int], seconds: float = 30.0) -> None:
        """Wait until others serve in place of those that died."""
        deadline = time.monotonic() + seconds
        while self._starting or any(
            server.process is None or server.process.pid in victims for server in self._all
        ):
            if time.monotonic() > deadline:
                raise RuntimeError("a server does not come back")
            await asyncio.sleep(_LOOK_SECONDS)

    def pids(self, victim: str) -> list[int]:
        server = {"postgresql": self.postgres, "redis": self.redis}[victim]
        return [] if server.process is None else [server.process.pid]

    def family(self, victim: str) -> list[int]:
        """Return the server's processes, itself first."""
        return [one for pid in self.pids(victim) for one in (pid, *children(pid))]

    async def _keep(self, server: PostgresServer | ValkeyServer) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if server.process is not None and server.process.poll() is not None:
                self._starting += 1
                await asyncio.to_thread(server.start)
                self._starting -= 1
