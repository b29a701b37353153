"""Deletes what is old, in batches that wait for nobody and that nobody waits for."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import asyncpg

from everesthood.adapters.postgres.pool import Connection, Database, Row, again, sql
from everesthood.domain.errors import Unavailable
from everesthood.domain.keeping import Bounds, Keeping, bounds
from everesthood.domain.run_ids import first_at
from everesthood.usecases.ports.keeping import Forgotten, Kind

_FIRST: Final = "00000000-0000-0000-0000-000000000000"
_SMALLER: Final = 20
"""Where each run has thousands of steps, a batch has so many times fewer."""
_SETTINGS: Final = "set local statement_timeout = '5s'; set local plan_cache_mode = force_custom_plan"


class PostgresKeeping:
    """The port `KeepStore`."""

    def __init__(self, database: Database) -> None:
        """Use the process's pool."""
        self._database = database

    async def forget(self, kind: Kind, keeping: Keeping, after: str | None, limit: int) -> Forgotten:
        """Look at `limit` rows of a kind, or fewer where they are too many to delete in time."""
        for size in (limit, max(1, limit // _SMALLER), 1):
            try:
                return await self._forget(kind, keeping, after, size)
            except Unavailable as error:
                if not isinstance(error.__cause__, asyncpg.QueryCanceledError):
                    raise
        raise Unavailable(f"What is old cannot be deleted in time ({kind} after {after or 'the first'}).")

    async def _forget(self, kind: Kind, keeping: Keeping, after: str | None, limit: int) -> Forgotten:
        async def once() -> Forgotten:
            async with self._database.transaction() as connection:
                await connection.execute(_SETTINGS)
                # The record's own clock: that of a process may be years off.
                old = bounds(keeping, await connection.fetchval("select now()"))
                return await _batch(connection, kind, old, after, limit)

        return await again(once)


async def _batch(connection: Connection, kind: Kind, old: Bounds, after: str | None, limit: int) -> Forgotten:
    match kind:
        case "runs":
            ends = (first_at(old.any_run), limit, old.runs, old.dead_runs)
            row = await connection.fetchrow(sql("forget_runs"), after or _FIRST, *ends)
            counts = {name: row[name] for name in ("runs", "steps", "log_lines")}
        case "log_lines":
            run, _, seq = (after or f"{_FIRST}/0").partition("/")
            bound: datetime = old.log_lines
            row = await connection.fetchrow(sql("forget_lines"), run, int(seq), first_at(bound), limit, bound)
            counts = {"log_lines": row["gone"]}
        case "keys":
            row = await connection.fetchrow(sql("forget_keys"), old.keys, limit)
            counts = {"keys": row["gone"]}
        case "audit":
            row = await connection.fetchrow(sql("forget_audit"), int(after or 0), limit, old.audit)
            counts = {"audit_lines": row["gone"]}
    return _forgotten(row, counts, limit)


def _forgotten(row: Row, counts: Mapping[str, int], limit: int) -> Forgotten:
    return Forgotten(counts=counts, next=row["last"] if row["looked"] == limit else None)
