"""Starts and stops the controller: watches first, then the first full list, then, when leading, work."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from everesthood.adapters.telemetry import configure_logging, serve_health
from everesthood.bootstrap.controller import Controller, wire
from everesthood.domain.errors import Invalid
from everesthood.entrypoints.controller.watch import watch
from everesthood.entrypoints.controller.work import hear, hear_demand, measure_lag, watch_demand, work
from everesthood.settings import Settings

_LOG: Final = logging.getLogger(__name__)
_WAIT_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 10.0


def main() -> None:
    """Run the controller until it is told to stop, or until it can no longer lead."""
    settings = Settings.read()
    configure_logging("controller", settings.log_level)
    try:
        sys.exit(asyncio.run(run(settings)))
    except Invalid as error:
        _LOG.error("cannot start: %s", error.message)
        sys.exit(1)


async def run(settings: Settings) -> int:
    """Wire and serve until a signal; return the exit code."""
    stop = asyncio.Event()
    _stop_on_signal(stop)
    async with wire(settings) as controller:
        health = await serve_health(
            settings.metrics_port,
            live={"sweep": controller.sweeper.complaint},
            ready={"sync": lambda: None if controller.sweeper.synced.is_set() else "not synced yet"},
        )
        try:
            # Kopf takes the signals when it starts; they are taken back: the order of the stop is ours.
            return await serve(controller, stop, started=lambda: _stop_on_signal(stop))
        finally:
            health.close()


async def serve(
    controller: Controller, stop: asyncio.Event, *, started: Callable[[], None] | None = None
) -> int:
    """Work until `stop`; return 1 when something ended by itself."""
    if not await _served(controller, stop):
        return 0
    vital = {
        "watch": asyncio.create_task(watch(controller.watching, controller.client, started=started)),
        "sweep": asyncio.create_task(controller.sweeper.run()),
        "lease": asyncio.create_task(controller.lease.run()),
        "hints": asyncio.create_task(
            hear(controller.registry, controller.cache, controller.queue, controller.publisher)
        ),
        "demand": asyncio.create_task(hear_demand(controller.registry, controller.watch)),
        "scale": asyncio.create_task(watch_demand(controller.watch, controller.cache, controller.queue)),
        "lag": asyncio.create_task(measure_lag()),
        "work": asyncio.create_task(_lead(controller)),
    }
    stop_task = asyncio.create_task(stop.wait())
    ended = await _first({stop_task, *vital.values()})
    code = 0 if stop.is_set() else 1
    _report(name for name, task in vital.items() if task in ended)
    await _stop(controller, vital)
    await _cancel([stop_task])
    return code


async def _served(controller: Controller, stop: asyncio.Event) -> bool:
    """Wait until the API server knows our kinds; Kopf would never look for them again."""
    while not stop.is_set():
        problem = await controller.unserved()
        if problem is None:
            return True
        _LOG.warning("not started yet: %s", problem)
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                await stop.wait()
        except TimeoutError:
            continue
    return False


async def _lead(controller: Controller) -> None:
    """Work while leading: after the barrier of the first full list."""
    await controller.sweeper.synced.wait()
    await controller.lease.leads.wait()
    controller.watching.look_at_all(0.0)
    async with asyncio.TaskGroup() as group:
        for _ in range(controller.workers):
            group.create_task(work(controller.queue, controller.reconcile, controller.stopping))


async def _stop(controller: Controller, vital: dict[str, asyncio.Task[Any]]) -> None:
    """Finish the passes under way, then let the next leader start, then end the watches."""
    controller.stopping.set()
    if not controller.lease.lost.is_set():
        await controller.queue.drain(_STOP_SECONDS)
    await _cancel([vital["work"], vital["lease"]])
    await controller.lease.release()
    await _cancel(list(vital.values()))


async def _first(tasks: Iterable[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    done, _ = await asyncio.wait(set(tasks), return_when=asyncio.FIRST_COMPLETED)
    return done


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            _LOG.error("ended with %s: %s", type(outcome).__name__, outcome)


def _report(ended: Iterable[str]) -> None:
    for name in ended:
        _LOG.error("%s ended by itself; this process ends too", name)


def _stop_on_signal(stop: asyncio.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)


if __name__ == "__main__":
    main()
