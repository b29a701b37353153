"""`everesthood migrate`: brings the record's schema to what this version knows."""

import asyncio
import sys

from everesthood.bootstrap.migrate import migrate_record
from everesthood.domain.errors import EveresthoodError, Unavailable
from everesthood.settings import Settings

_TRIES = 60
_PAUSE_SECONDS = 2.0


def migrate(check: bool = False) -> None:
    """Apply missing migrations, or with --check only say whether any is missing."""
    try:
        applied = asyncio.run(_run(Settings.read(), check=check))
    except EveresthoodError as error:
        sys.exit(error.message)
    for name in applied:
        sys.stdout.write(f"applied {name}\n")
    sys.stdout.write("the schema is up to date\n")


async def _run(settings: Settings, *, check: bool) -> list[str]:
    """Give a PostgreSQL that starts together with us two minutes to come up."""
    tries = 1 if check else _TRIES
    for _ in range(tries - 1):
        try:
            return await migrate_record(settings, check=check)
        except Unavailable as error:
            sys.stderr.write(f"waits for PostgreSQL: {error.message}\n")
            await asyncio.sleep(_PAUSE_SECONDS)
    return await migrate_record(settings, check=check)


def main() -> None:
    """Run as a process of its own."""
    migrate()


if __name__ == "__main__":
    main()
