"""Runs, schedules and queues for the scheduler."""

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

import asyncpg

from everesthood.adapters.postgres import control, rows, schedules
from everesthood.adapters.postgres.announce import Announcer, Waker
from everesthood.adapters.postgres.cancels import cancel_child_runs_if_possible
from everesthood.adapters.postgres.listen import CANCELS, QUEUES, REGISTRY, Listener
from everesthood.adapters.postgres.pool import AWAY, CONNECT_SECONDS, Database, Row, again, sql
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.runs import (
    Next,
    RunState,
    after_deadline,
    after_lease_expiry,
    after_waiting,
    deadline,
    lets_go,
)
from everesthood.usecases.ports.record import DueBell, Fired, QueueOwner

_BATCH: Final = 500
_PROBE_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 0.25
"""After a loss: most often PostgreSQL was started anew, and nobody leads until it is asked again."""
_LOCK_SPACE: Final = 0x65766572  # "ever": keeps our advisory locks apart from others'


class PostgresClock:
    """The port `ClockStore`."""

    def __init__(self, database: Database, listener: Listener) -> None:
        """Use the process's pool and listener."""
        self._database = database
        self._listener = listener
        self._announcer = Announcer(database)
        self._waker = Waker(database)
        self._canceller = Announcer(database, CANCELS)

    async def rescue(self) -> Mapping[str, int]:
        """End or requeue runs whose worker fell silent or whose time is up, batch by batch."""
        counts: Counter[str] = Counter()
        while True:
            settled = await again(self._rescue_batch)
            counts.update(state.value for state in settled)
            if len(settled) < _BATCH:
                return counts

    async def _rescue_batch(self) -> list[RunState]:
        async with self._database.transaction() as connection:
            overdue = await connection.fetch(sql("overdue"), _BATCH)
            verdicts = [(row["id"], _verdict(row)) for row in overdue]
            await connection.execute(
                sql("settle"),
                [run for run, _ in verdicts],
                [rows.CODES[becomes.state] for _, becomes in verdicts],
                [becomes.reason for _, becomes in verdicts],
                [becomes.message for _, becomes in verdicts],
            )
        self._announcer.changed(run for run, _ in verdicts)
        # A worker that still holds one frees its slot with the next heartbeat: let that be now.
        self._canceller.changed(row["instance_uid"] for row in overdue if row["cancel_requested"])
        over = [run for run, becomes in verdicts if lets_go(becomes.state, cancel_requested=False)]
        await cancel_child_runs_if_possible(self._database, self._announcer, over)
        return [becomes.state for _, becomes in verdicts]

    async def expire_approvals(self) -> int:
        """End questions whose deadline passed, batch by batch."""
        ended = 0
        while True:
            runs = await again(self._expire_batch)
            self._announcer.changed(runs)
            ended += len(runs)
            if not runs:  # of each run, a batch has one question
                return ended

    async def _expire_batch(self) -> list[str]:
        async with self._database.transaction() as connection:
            return await control.expire_approvals(connection, _BATCH)

    async def cancel_stopped(self) -> int:
        """Cancel what runs in organisations whose stop says so."""
        return await control.cancel_stopped(self._database, self._announcer)

    async def fire_schedules(self, limit: int) -> Fired:
        """Accept the runs of due schedules and plan their next times."""

        async def once() -> tuple[Fired, list[str]]:
            async with self._database.transaction() as connection:
                return await schedules.fire(connection, limit)

        fired, cancelled = await again(once)
        self._announcer.changed(cancelled)
        await cancel_child_runs_if_possible(self._database, self._announcer, cancelled)
        await self._waker.wake(fired.ring)
        return fired

    async def release_held(self, limit: int) -> Sequence[tuple[str, str]]:
        """Let runs go whose schedule's earlier runs are over."""

        async def once() -> list[tuple[str, str]]:
            async with self._database.transaction() as connection:
                return await schedules.release(connection, limit)

        released = await again(once)
        await self._waker.wake(released)
        return released

    async def due_bells(self, older_than_seconds: float) -> Sequence[DueBell]:
        """Return queues with work that waited too long."""
        found = await self._database.fetch("due_bells", older_than_seconds)
        await self._waker.wake([(row["instance_uid"], row["revision"]) for row in found])
        return [DueBell(instance_uid=row["instance_uid"], revision=row["revision"]) for row in found]

    async def queue_owners(self) -> Sequence[QueueOwner]:
        """Return all instances, deleted ones not wanted."""
        found = await self._database.fetch("queue_owners")
        return [QueueOwner(**dict(row)) for row in found]

    async def mark_queues(self, ready: Sequence[str], gone: Sequence[str]) -> None:
        """Mark broker users made; forget deleted instances whose user is gone."""
        changed = [*await self._database.fetch("queue_ready", list(ready))] if ready else []
        changed += [*await self._database.fetch("queue_gone", list(gone))] if gone else []
        for row in changed:
            await self._database.notify(REGISTRY, row["uid"])

    async def lead(self, duty: str) -> AsyncIterator[bool]:
        """Yield True and False as the duty's advisory lock comes and goes with its connection."""
        pause = _PROBE_SECONDS
        while True:
            connection = await self._lock(duty)
            if connection is not None:
                try:
                    yield True
                    await _until_lost(connection)
                finally:
                    connection.terminate()
                yield False
                pause = _AGAIN_SECONDS
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PROBE_SECONDS)

    async def _lock(self, duty: str) -> asyncpg.Connection | None:
        with suppress(EveresthoodError):
            connection = await self._database.connect()
            try:
                key = zlib.crc32(duty.encode()) - 2**31
                if await connection.fetchval("select pg_try_advisory_lock($1, $2)", _LOCK_SPACE, key):
                    return connection
            except (asyncpg.PostgresError, *AWAY):
                pass  # the next try finds out what is wrong
            connection.terminate()
        return None

    async def queue_changes(self) -> AsyncIterator[None]:
        """Yield when the controller told of a new or deleted instance."""
        async with aclosing(self._listener.subscribe(QUEUES)) as told:
            async for _ in told:
                yield

    async def close(self) -> None:
        """Tell what is left."""
        await self._waker.close()
        await self._canceller.close()
        await self._announcer.close()


def _verdict(row: Row) -> Next:
    if rows.STATES[row["state"]] is RunState.QUEUED:
        return after_waiting() if row["started_at"] is None else after_deadline()
    return after_lease_expiry(
        attempt=row["attempt"] - row["failures"],
        max_attempts=row["max_attempts"],
        cancel_requested=row["cancel_requested"],
        deadline_at=deadline(started_at=row["started_at"], max_run_seconds=row["max_run_seconds"]),
        now=row["now"],
    )


async def _until_lost(connection: asyncpg.Connection) -> None:
    """Return once the session, and with it the lock, is gone or cannot be asked."""
    gone = asyncio.Event()
    connection.add_termination_listener(lambda _: gone.set())
    while not (gone.is_set() or connection.is_closed()):
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_SECONDS):
                await gone.wait()
            return
        try:
            await connection.execute("select 1", timeout=CONNECT_SECONDS)
        except (asyncpg.PostgresError, *AWAY):
            return
