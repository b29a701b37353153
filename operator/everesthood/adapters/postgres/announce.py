"""Tells other processes which runs changed or instances woke: in batches, so that no run pays for it."""

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from everesthood.adapters.postgres.listen import DEMAND, EVERYTHING, RUNS
from everesthood.adapters.postgres.pool import Database
from everesthood.domain.errors import EveresthoodError

_PERIOD_SECONDS: Final = 0.05
_MOST: Final = 200
"""Ids that fit into one payload of 8,000 bytes; beyond that all watchers look."""


class Announcer:
    """Collects ids and tells them at most every 50 ms, in one NOTIFY."""

    def __init__(self, database: Database, channel: str = RUNS) -> None:
        """Start with nothing to tell."""
        self._database = database
        self._channel = channel
        self._pending: set[str] = set()
        self._task: asyncio.Task[None] | None = None

    def changed(self, ids: Iterable[str]) -> None:
        """Tell of these runs, or instances, soon."""
        self._pending.update(ids)
        if self._pending and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._tell(), name="announce")

    async def close(self) -> None:
        """Tell what is left."""
        if self._task is not None:
            await self._task

    async def _tell(self) -> None:
        while self._pending:
            told, self._pending = self._pending, set()
            payload = EVERYTHING if len(told) > _MOST else ",".join(told)
            with suppress(EveresthoodError):  # a hint: whoever waits for it also looks by itself
                await self._database.notify(self._channel, payload)
            await asyncio.sleep(_PERIOD_SECONDS)


class Waker:
    """Tells the controller of work for workers that it does not watch: there may be none of them."""

    def __init__(self, database: Database) -> None:
        """Start with nothing to tell."""
        self._database = database
        self._announcer = Announcer(database, DEMAND)

    async def wake(self, queues: Collection[tuple[str, str]]) -> None:
        """Tell of those of these queues that the controller wants to hear of."""
        if not queues:
            return
        uids, revisions = zip(*queues, strict=True)
        with suppress(EveresthoodError):  # the scheduler tells of what nobody claims
            found = await self._database.fetch("quiet_queues", list(uids), list(revisions))
            self._announcer.changed(row["uid"] for row in found)

    async def close(self) -> None:
        """Tell what is left."""
        await self._announcer.close()
