"""Wires the migration of the record."""

from everesthood.adapters.postgres import check_schema
from everesthood.adapters.postgres import migrate as apply
from everesthood.bootstrap.connections import open_database
from everesthood.settings import Settings


async def migrate_record(settings: Settings, *, check: bool) -> list[str]:
    """Apply what is missing and return its names; with `check` only look.

    Raises:
        Conflict: the schema is not the one that this version knows and cannot be brought there.
        Unavailable: PostgreSQL cannot be reached.
    """
    database = open_database(settings, "migrate")
    try:
        if check:
            await check_schema(database)
            return []
        return await apply(database)
    finally:
        await database.close()
