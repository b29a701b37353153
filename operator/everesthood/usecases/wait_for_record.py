"""Waiting for the record at a process's start: it may come up, or be migrated, after us."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from everesthood.domain.errors import Unavailable

_LOG: Final = logging.getLogger(__name__)
_PAUSE_SECONDS: Final = 0.25


async def wait_for_record(
    check_schema: Callable[[], Awaitable[None]],
    *,
    stop: asyncio.Event | None = None,
    pause_seconds: float = _PAUSE_SECONDS,
) -> bool:
    """Return True once the record is there with our schema, False when told to stop before.

    Raises:
        Conflict: the schema is of another version, and waiting does not help.
    """
    while stop is None or not stop.is_set():
        try:
            await check_schema()
        except Unavailable as error:
            _LOG.warning("waits for the record: %s", error.message)
            await asyncio.sleep(pause_seconds)
        else:
            return True
    return False
