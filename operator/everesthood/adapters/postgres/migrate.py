"""Brings the schema to what this version knows, and refuses every other.

Migrations are files `NNNN_name.sql`, applied in order, each in a transaction of its own, by one process at
a time; an applied file must not change.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import asyncpg

from everesthood.adapters.postgres.pool import Database, translated
from everesthood.domain.errors import Conflict, Unavailable

_LOCK: Final = 0x65766572657374
_TABLE: Final = """
create table if not exists schema_version (
    version int primary key, name text not null, checksum text not null,
    applied_at timestamptz not null default now())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One step of the schema."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        """Return the digest that tells an edited file."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """Return the known steps in order."""
    found = [f for f in files(__package__).joinpath("migrations").iterdir() if f.name.endswith(".sql")]
    steps = [
        Migration(version=int(f.name[:4]), name=f.name.removesuffix(".sql"), text=f.read_text("utf-8"))
        for f in found
    ]
    return tuple(sorted(steps, key=lambda step: step.version))


async def migrate(database: Database) -> list[str]:
    """Apply what is missing and return its names.

    Raises:
        Conflict: the schema is newer than this version, or an applied migration was changed.
        Unavailable: PostgreSQL cannot be reached.
    """
    connection = await database.connect()
    try:
        with translated():
            await connection.execute("set statement_timeout = 0; set lock_timeout = 0")
            await connection.execute("select pg_advisory_lock($1)", _LOCK, timeout=None)
            await connection.execute(_TABLE)
            missing = _missing(await _applied(connection))
            for step in missing:
                await _apply(connection, step)
            return [step.name for step in missing]
    finally:
        await connection.close(timeout=1)


async def check_schema(database: Database) -> None:
    """Return if the schema is exactly the one that this version knows.

    Raises:
        Conflict: it is newer, or of another build: waiting does not help.
        Unavailable: PostgreSQL cannot be reached, or migrations are still to be applied.
    """
    async with database.acquire() as connection:
        exists = await connection.fetchval("select to_regclass('schema_version') is not null")
        applied = await _applied(connection) if exists else {}
    missing = _missing(applied)
    if missing:
        have, know = len(applied), migrations()[-1].version
        raise Unavailable(
            f"The database schema is at version {have}, this program needs {know}: run `everesthood migrate`."
        )


async def _applied(connection: asyncpg.Connection) -> dict[int, tuple[str, str]]:
    found = await connection.fetch("select version, name, checksum from schema_version")
    return {row["version"]: (row["name"], row["checksum"]) for row in found}


def _missing(applied: dict[int, tuple[str, str]]) -> list[Migration]:
    known = {step.version: step for step in migrations()}
    newest = max(applied, default=0)
    if newest > max(known):
        raise Conflict(
            f"The database schema is at version {newest}, newer than the {max(known)} "
            "that this program knows: use a newer version of the program."
        )
    for version, (name, checksum) in applied.items():
        if version not in known or known[version].checksum != checksum:
            raise Conflict(
                f"Migration {name} of the database is not the one that this program knows: "
                "the database belongs to another build."
            )
    return [step for version, step in known.items() if version not in applied]


async def _apply(connection: asyncpg.Connection, step: Migration) -> None:
    async with connection.transaction():
        await connection.execute(step.text, timeout=None)
        await connection.execute(
            "insert into schema_version (version, name, checksum) values ($1, $2, $3)",
            step.version,
            step.name,
            step.checksum,
        )
