"""Start the runs of schedules whose time has come, and those that waited for an earlier one."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Final

from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import ClockStore

BATCH: Final = 500
LANES: Final = 3
"""Batches under way at once: while one is decided here, another is written there."""


async def fire_schedules(*, clock: ClockStore, bell: Bell) -> Mapping[str, int]:
    """Fire until nothing is due, each batch rung for as soon as it is durable."""
    done: Counter[str] = Counter()
    if await _batch(clock, bell, done):
        await _rush(clock, bell, done)
    released = await clock.release_held(BATCH)
    for queue in released:
        await bell.ring(*queue)
    done.update(runs_released=len(released))
    return done


async def _rush(clock: ClockStore, bell: Bell, done: Counter[str]) -> None:
    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(LANES):
                lanes.create_task(_lane(clock, bell, done))
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed  # what the record says, without the wrapping


async def _lane(clock: ClockStore, bell: Bell, done: Counter[str]) -> None:
    while await _batch(clock, bell, done):
        pass


async def _batch(clock: ClockStore, bell: Bell, done: Counter[str]) -> bool:
    """Return whether there may be more."""
    fired = await clock.fire_schedules(BATCH)
    for queue in fired.ring:
        await bell.ring(*queue)
    done.update(runs_started=fired.started, times_skipped=fired.skipped, runs_cancelled=fired.cancelled)
    return fired.schedules == BATCH
