"""What the gateway does unasked: look at credentials, and at which queues have too many workers."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.gateway import metrics

PERIOD_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 1.0
_FAILED_SECONDS: Final = 5.0
_LEAVING_SECONDS: Final = 2.0

Observe = Callable[[float], Awaitable[Mapping[str, int]]]
"""Looks at credentials that were never looked at, or longer ago than so many seconds."""

log = structlog.get_logger("everesthood.gateway")


async def keep_observing(observe: Observe) -> None:
    """Look again and again, for as long as the process lives."""
    while True:
        pause = _LOOK_SECONDS
        try:
            # The jitter keeps the gateways of an installation from looking at the same moment.
            counts = await observe(PERIOD_SECONDS * random.uniform(0.9, 1.1))  # noqa: S311
        except EveresthoodError as error:
            log.warning("cannot look at credentials", reason=error.reason, error=error.message)
            pause = _FAILED_SECONDS
        except Exception:
            log.exception("cannot look at credentials")
            pause = _FAILED_SECONDS
        else:
            for reason, count in counts.items():
                metrics.OBSERVED.labels(reason).inc(count)
            metrics.OBSERVED_AT.set_to_current_time()
            pause += _FAILED_SECONDS if counts.get("unavailable") else 0.0
        await asyncio.sleep(pause)


async def keep_asking(refresh: Callable[[], Awaitable[None]]) -> None:
    """Know which queues have too many workers, for as long as the process lives."""
    while True:
        try:
            await refresh()
        except EveresthoodError as error:
            log.warning("cannot see which workers may leave", reason=error.reason, error=error.message)
        except Exception:
            log.exception("cannot see which workers may leave")
        await asyncio.sleep(_LEAVING_SECONDS)
