"""Wait until a run of a worker's instance was cancelled: the worker hears of it before its next heartbeat."""

import asyncio
from contextlib import aclosing
from typing import Any, Final, cast

from everesthood.apis.wire import WatchReply
from everesthood.usecases.ports.control import Cancellations
from everesthood.usecases.ports.record import WorkerSeat

WATCH_SECONDS: Final = 5.0
"""Shorter than what clients and proxies take for a dead connection."""


async def await_cancellation(
    cancellations: Cancellations, seat: WorkerSeat, seconds: float = WATCH_SECONDS
) -> WatchReply:
    """Return at the first hint, or once the time is up."""
    hints = cast("Any", cancellations.of(seat.instance_uid))
    async with aclosing(hints):
        try:
            async with asyncio.timeout(seconds):
                await anext(hints)
        except TimeoutError:
            return WatchReply()
    return WatchReply(changed=True)
