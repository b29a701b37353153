"""`everesthood worker`: claims first, listens to the queue second, ends with every run handed in."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import structlog
import uvloop

from everesthood.adapters.telemetry import configure_logging, serve_health
from everesthood.apis.wire import Program, QueueLease
from everesthood.bootstrap.worker import worker_parts
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.worker.line import OpenConsumer, QueueLine
from everesthood.settings import Settings

_log = structlog.get_logger(__name__)
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0


class RunLoop(Protocol):
    """Claims and executes runs."""

    leaving: asyncio.Event
    """Set once the worker is to leave: it claims nothing more, and bells are for others."""

    def trouble(self) -> str | None:
        """Return why only a new process can go on working."""
        ...

    async def serve(self) -> None:
        """Work until stopped."""
        ...

    def wake(self) -> None:
        """Look for work now; may be called from any thread."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Claim nothing more, give held runs that long, hand back the rest, and make `serve` return."""
        ...


class Gateway(Protocol):
    """What the process itself asks the gateway for."""

    async def program(self) -> Program:
        """Return what this worker executes."""
        ...

    async def queue(self) -> QueueLease:
        """Return how to reach this worker's queue."""
        ...


class Process:
    """The parts of a running worker, and what it says of its health."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        build: Callable[[Program], Awaitable[RunLoop]],
        listen: OpenConsumer,
        grace_seconds: float,
    ) -> None:
        """Start nothing yet."""
        self._gateway = gateway
        self._build = build
        self._listen = listen
        self._grace_seconds = grace_seconds
        self._line: QueueLine | None = None
        self._runs: RunLoop | None = None
        self._waits_for = "the gateway to hand out the program"

    async def serve(self, *, metrics_port: int, stop: asyncio.Event) -> None:
        """Fetch the program, work, listen; on SIGTERM stop claiming, give runs their grace, end."""
        health = await serve_health(
            metrics_port, live={"worker": self.live_problem}, ready={"worker": self.ready_problem}
        )
        async with health:
            program = await _patiently(self._gateway.program, stop)
            if program is not None:
                self._runs = runs = await self._build(program)
                self._waits_for = ""
                await self._work(runs, stop)
        _log.info("stopped")

    def live_problem(self) -> str | None:
        """Return why only a restart helps. That the loop answers at all is the other half."""
        stuck = self._line.stuck() if self._line else None
        return stuck or (self._runs.trouble() if self._runs else None)

    def ready_problem(self) -> str | None:
        """Return what is still missing."""
        return f"waits for {self._waits_for}" if self._waits_for else None

    async def _work(self, runs: RunLoop, stop: asyncio.Event) -> None:
        # The first claim is on its way before the queue is even asked for.
        working = asyncio.create_task(runs.serve(), name="runs")
        self._line = line = QueueLine(lease=self._gateway.queue, consumer=self._listen, wake=runs.wake)
        listening = asyncio.create_task(line.keep(), name="queue")
        stopping = asyncio.create_task(stop.wait())
        leaving = asyncio.create_task(runs.leaving.wait())
        try:
            ends = {working, listening, stopping}
            await asyncio.wait({*ends, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not any(end.done() for end in ends):
                line.close()  # a worker that leaves lives on, deaf, until it is stopped
                await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            _log.info("stops", grace_seconds=self._grace_seconds)
            self._waits_for = "its end"
            line.close()
            if not working.done():
                await runs.stop(self._grace_seconds)
            # A part that ended by an error ends the process, and Kubernetes starts a fresh one.
            await asyncio.gather(working, listening)
        finally:
            for task in (working, listening, stopping, leaving):
                task.cancel()


async def _patiently(program: Callable[[], Awaitable[Program]], stop: asyncio.Event) -> Program | None:
    """Ask until the gateway answers: it may start later than we, or not know the instance yet."""
    pause = _FIRST_PAUSE_SECONDS
    while not stop.is_set():
        try:
            return await program()
        except EveresthoodError as error:
            _log.warning("cannot fetch the program yet", reason=error.reason, error=error.message)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    return None


async def run(settings: Settings) -> None:
    """Wire and serve until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with worker_parts(settings) as parts:
        process = Process(
            gateway=parts.gateway,
            build=parts.build,
            listen=parts.listen,
            grace_seconds=settings.worker_grace_seconds,
        )
        await process.serve(metrics_port=settings.metrics_port, stop=stop)


def main() -> None:
    """Start, or end with one sentence that says why not."""
    settings = Settings.read()
    configure_logging("worker", settings.log_level)
    try:
        uvloop.run(run(settings))
    except EveresthoodError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
