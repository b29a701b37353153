"""Start the runs of schedules whose time has come, and those that waited for an earlier one."""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import ClockStore

BATCH: Final = 1000


async def fire_schedules(*, clock: ClockStore, bell: Bell) -> Mapping[str, int]:
    """Fire batch by batch until nothing is due, each rung for as soon as it is durable."""
    done: Counter[str] = Counter()
    while True:
        fired = await clock.fire_schedules(BATCH)
        for queue in fired.ring:
            await bell.ring(*queue)
        done.update(runs_started=fired.started, times_skipped=fired.skipped, runs_cancelled=fired.cancelled)
        if fired.schedules < BATCH:
            break
    released = await clock.release_held(BATCH)
    for queue in released:
        await bell.ring(*queue)
    done.update(runs_released=len(released))
    return done
