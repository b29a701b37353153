"""`everesthood scheduler`: does its duties until told to stop."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterable

import structlog

from everesthood.adapters.telemetry import configure_logging, serve_health
from everesthood.bootstrap.scheduler import scheduler_parts
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.scheduler.duties import DutyRunner, Lead
from everesthood.settings import Settings
from everesthood.usecases.duties import Duty
from everesthood.usecases.wait_for_record import wait_for_record

_log = structlog.get_logger(__name__)


async def serve(
    duties: Iterable[Duty],
    *,
    lead: Lead,
    check_schema: Callable[[], Awaitable[None]],
    metrics_port: int,
    stop: asyncio.Event,
) -> None:
    """Run every duty, independent of each other, until `stop` is set."""
    runners = [DutyRunner(duty, lead=lead) for duty in duties]
    waits_for = ["the record"]
    ready = {runner.duty.name: runner.trouble for runner in runners}
    ready["record"] = lambda: f"waits for {waits_for[0]}" if waits_for else None
    # Nothing in `live`: that the loop answers at all is the proof, and a lost record heals without us.
    async with await serve_health(metrics_port, live={}, ready=ready):
        if await wait_for_record(check_schema, stop=stop):
            waits_for.clear()
            await _run_until(stop, runners)
    _log.info("stopped")


async def _run_until(stop: asyncio.Event, runners: Iterable[DutyRunner]) -> None:
    tasks = {asyncio.create_task(runner.run(), name=runner.duty.name) for runner in runners}
    try:
        await stop.wait()
    finally:
        # Every pass may be cut anywhere: what it did not finish, the next leader does.
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def run(settings: Settings) -> None:
    """Wire and serve until SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with scheduler_parts(settings) as parts:
        await serve(
            parts.duties,
            lead=parts.clock.lead,
            check_schema=parts.check_schema,
            metrics_port=settings.metrics_port,
            stop=stop,
        )


def main() -> None:
    """Start, or end with one sentence that says why not."""
    settings = Settings.read()
    configure_logging("scheduler", settings.log_level)
    try:
        asyncio.run(run(settings))
    except EveresthoodError as error:
        sys.exit(error.message)


if __name__ == "__main__":
    main()
