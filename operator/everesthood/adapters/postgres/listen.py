"""Hears what other processes tell through NOTIFY, and hands it to whoever waits in this one.

A lost connection is opened again; then everybody is woken, since something may have been missed.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress
from typing import Final

import asyncpg
import structlog

from everesthood.adapters.postgres.pool import AWAY, Database
from everesthood.domain.errors import EveresthoodError

RUNS: Final = "everesthood_runs"
REGISTRY: Final = "everesthood_registry"
QUEUES: Final = "everesthood_queues"
CANCELS: Final = "everesthood_cancels"
DEMAND: Final = "everesthood_demand"
EVERYTHING: Final = "*"
"""As a payload: look at all you know."""
_PAUSE_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 10.0

log = structlog.get_logger(__name__)


class Subscription:
    """Keys told since the last look; the same key twice is one key."""

    def __init__(self, only: str | None) -> None:
        """Wait for one key, or with None for all."""
        self._only = only
        self._told: dict[str, None] = {}
        self._awake = asyncio.Event()

    def tell(self, keys: Iterable[str]) -> None:
        """Take the keys that this subscription is for."""
        for key in keys:
            if self._only in (None, key) or key == EVERYTHING:
                self._told[key] = None
                self._awake.set()

    async def take(self) -> list[str]:
        """Wait for at least one key and return all."""
        await self._awake.wait()
        self._awake.clear()
        told, self._told = list(self._told), {}
        return told


class Listener:
    """One connection that listens for a whole process."""

    def __init__(self, database: Database) -> None:
        """Nothing is opened before the first subscription."""
        self._database = database
        self._subscriptions: dict[str, set[Subscription]] = {
            channel: set() for channel in (RUNS, REGISTRY, QUEUES, CANCELS, DEMAND)
        }
        self._task: asyncio.Task[None] | None = None
        self._listening = asyncio.Event()

    async def subscribe(self, channel: str, only: str | None = None) -> AsyncGenerator[list[str], None]:
        """Yield keys told on the channel, from the moment that the server listens for us."""
        subscription = Subscription(only)
        self._subscriptions[channel].add(subscription)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="postgres-listener")
        try:
            while True:
                yield await subscription.take()
        finally:
            self._subscriptions[channel].discard(subscription)

    async def ready(self) -> None:
        """Wait until the server listens for us."""
        await self._listening.wait()

    def wake(self, channel: str) -> None:
        """Tell all subscriptions of a channel to look."""
        for subscription in self._subscriptions[channel]:
            subscription.tell([EVERYTHING])

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except EveresthoodError as error:
                log.warning("listener lost PostgreSQL", error=error.message)
            self._listening.clear()
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _listen(self) -> None:
        connection = await self._database.connect()
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        try:
            for channel in self._subscriptions:
                await connection.add_listener(channel, self._heard)
            self._listening.set()
            for channel in self._subscriptions:
                self._heard(connection, 0, channel, EVERYTHING)
            await _until_gone(connection, gone)
        except (asyncpg.PostgresError, *AWAY) as error:
            log.warning("listener lost PostgreSQL", error=type(error).__name__)
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: int, channel: str, payload: object) -> None:
        keys = str(payload).split(",")
        for subscription in self._subscriptions[channel]:
            subscription.tell(keys)


async def _until_gone(connection: asyncpg.Connection, gone: asyncio.Event) -> None:
    """Return when the connection ends; a silent death shows at the next probe."""
    while not gone.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_SECONDS):
                await gone.wait()
        if not gone.is_set():
            await connection.execute("select 1", timeout=_PROBE_SECONDS)
