"""The way to PostgreSQL: a pool that never hangs, heals by itself and raises only our own errors."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from everesthood.domain.errors import Conflict, Invalid, Unavailable

Connection: TypeAlias = asyncpg.Connection | PoolConnectionProxy
Row: TypeAlias = asyncpg.Record
_Result = TypeVar("_Result")

CONNECT_SECONDS: Final = 3.0
STATEMENT_SECONDS: Final = 15.0
_TRIES: Final = 3
_INCLUDE: Final = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)
_UNREACHABLE: Final = "PostgreSQL cannot be reached."
_BAD_DATA: Final = ("22", "23", "54")
"""Classes of SQLSTATE that the values of a statement cause: bad data, broken constraint, over a limit."""
_LOST_RACE: Final = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)


@cache
def sql(name: str) -> str:
    """Return the statement of that file, with the files that it includes in their places."""
    text = files(__package__).joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: sql(found[1]), text)


AWAY: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What the driver raises when the server is gone, in the middle of whatever it was doing."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's exceptions into ours; no text of a statement or value passes."""
    try:
        yield
    except asyncpg.UniqueViolationError as error:
        raise Conflict("A row with that key exists.") from error
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_BAD_DATA):
            raise Invalid("PostgreSQL refuses a value of the request.") from error
        raise Unavailable(f"PostgreSQL cannot serve now ({type(error).__name__}).") from error
    except AWAY as error:
        raise Unavailable(_UNREACHABLE) from error


class Database:
    """A pool of connections. Nothing connects before the first use, so a start needs no server."""

    def __init__(self, dsn: Callable[[], str], *, size: int = 10, application: str = "everesthood") -> None:
        """Keep how to connect; `dsn` is asked anew each time, so that a rotated password is found."""
        self._dsn = dsn
        self._application = application
        self._size = size
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def connect(self) -> asyncpg.Connection:
        """Open a connection outside of the pool, for listening and for advisory locks."""
        with translated():
            return await self._connect()

    async def _connect(self, *_: object, **options: Any) -> asyncpg.Connection:  # noqa: ANN401 - the pool's
        options |= {"timeout": CONNECT_SECONDS, "command_timeout": STATEMENT_SECONDS + 1}
        return await asyncpg.connect(
            self._dsn(),
            server_settings={
                "application_name": self._application,
                "statement_timeout": f"{int(STATEMENT_SECONDS * 1000)}",
                "lock_timeout": "10000",
                "idle_in_transaction_session_timeout": "10000",
                "timezone": "UTC",
                "jit": "off",
            },
            **options,
        )

    async def _pooled(self) -> asyncpg.Pool:
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    connect=self._connect, min_size=0, max_size=self._size, reset=_keep
                )
            return self._pool

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection; raises Unavailable after a few seconds without one."""
        with translated():
            pool = self._pool or await self._pooled()
            async with pool.acquire(timeout=CONNECT_SECONDS) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection inside of a transaction."""
        async with self.acquire() as connection, connection.transaction():
            yield connection

    async def fetch(self, name: str, *values: object) -> Sequence[Row]:
        """Run the statement of a file; lost races for locks are run again."""

        async def once() -> Sequence[Row]:
            async with self.acquire() as connection:
                rows: Sequence[Row] = await connection.fetch(sql(name), *values)
                return rows

        return await again(once)

    async def row(self, name: str, *values: object) -> Row | None:
        """Run the statement of a file and return its first row."""
        rows = await self.fetch(name, *values)
        return rows[0] if rows else None

    async def notify(self, channel: str, payload: str) -> None:
        """Tell all listeners; the payload has at most 8,000 bytes."""
        async with self.acquire() as connection:
            await connection.execute("select pg_notify($1, $2)", channel, payload)

    async def close(self) -> None:
        """Give all connections back, by force after a while."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()


async def again(once: Callable[[], Awaitable[_Result]]) -> _Result:
    """Run a whole statement or transaction again when it lost a race for locks."""
    for _ in range(_TRIES - 1):
        try:
            return await once()
        except Unavailable as error:
            if not isinstance(error.__cause__, _LOST_RACE):
                raise
    return await once()


async def _keep(_: Connection) -> None:
    """Pooled connections carry no session state, so a reset would be a round trip for nothing."""
