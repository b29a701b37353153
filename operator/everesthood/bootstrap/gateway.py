"""Wires the gateway."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from everesthood.adapters.languages import Languages
from everesthood.adapters.postgres import (
    Database,
    Listener,
    PostgresCancellations,
    PostgresGateway,
    PostgresRuns,
    PostgresWork,
    check_schema,
)
from everesthood.adapters.redis import RedisBell
from everesthood.adapters.redis import connect as connect_redis
from everesthood.bootstrap.connections import open_database, redis_address
from everesthood.bootstrap.limits import shared_limits
from everesthood.bootstrap.surroundings import surroundings
from everesthood.domain.errors import Invalid
from everesthood.settings import Settings
from everesthood.usecases.call_instance import CallInstance
from everesthood.usecases.lease_queue import Broker
from everesthood.usecases.leave import Leaving
from everesthood.usecases.observe_credentials import observe_credentials
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.identity import Secrets
from everesthood.usecases.request_run import RequestRun
from everesthood.usecases.seat_worker import SeatWorker

_SHORTEST_KEY = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayParts:
    """What the gateway process works with."""

    database: Database
    work: PostgresWork
    store: PostgresGateway
    bell: Bell
    secrets: Secrets
    broker: Broker
    cancellations: PostgresCancellations
    call_instance: CallInstance
    seat: SeatWorker
    leaving: Leaving
    observe: Callable[[float], Awaitable[Mapping[str, int]]]
    publish_limits: Callable[[], Awaitable[Sequence[str]]]
    """Writes what the installation allows to the record; returns what changed."""

    async def check_schema(self) -> None:
        """Raise Conflict on a schema that this version does not know, Unavailable when PostgreSQL is away."""
        await check_schema(self.database)

    def release(self) -> None:
        """Let those go who only wait, for a cancellation or for the end of a run."""
        self.cancellations.release()
        self.call_instance.release()


@asynccontextmanager
async def gateway_parts(settings: Settings) -> AsyncIterator[GatewayParts]:
    """Yield the collaborators and close what they hold."""
    broker = Broker(
        host=settings.redis_host,
        port=settings.redis_port,
        tls=settings.redis_tls,
        bell_key=_key(settings.bell_key_file, "EVERESTHOOD_BELL_KEY_FILE"),
        ca=_authority(settings.redis_ca_file),
    )
    shared = shared_limits(settings.limits)
    fingerprint_key = _key(settings.fingerprint_key_file, "EVERESTHOOD_FINGERPRINT_KEY_FILE")
    async with AsyncExitStack() as stack:
        database = open_database(settings, "gateway")
        stack.push_async_callback(database.close)
        work = PostgresWork(database, lease_seconds=settings.lease_seconds)
        stack.push_async_callback(work.close)
        bell = RedisBell(connect_redis(redis_address(settings), process="gateway"))
        stack.push_async_callback(bell.aclose)
        around = await stack.enter_async_context(surroundings(settings))
        store = PostgresGateway(database)
        listener = Listener(database)
        stack.push_async_callback(listener.close)
        runs = PostgresRuns(database, listener)
        stack.push_async_callback(runs.close)
        request_run = RequestRun(
            runs=runs, bell=bell, schemas=Languages(), now=lambda: datetime.now(UTC), random=os.urandom
        )
        yield GatewayParts(
            database=database,
            work=work,
            store=store,
            bell=bell,
            secrets=around.secrets,
            broker=broker,
            cancellations=PostgresCancellations(listener),
            call_instance=CallInstance(store=store, runs=runs, request_run=request_run),
            seat=SeatWorker(
                identities=around.identities,
                owners=around.owners,
                store=store,
            ),
            leaving=Leaving(store, bell),
            observe=_observer(store, around.secrets, fingerprint_key),
            publish_limits=partial(store.publish_limits, shared),
        )


def _observer(
    store: PostgresGateway, secrets: Secrets, key: bytes
) -> Callable[[float], Awaitable[Mapping[str, int]]]:
    look = partial(observe_credentials, store=store, secrets=secrets, key=key)

    async def observe(older_than_seconds: float) -> Mapping[str, int]:
        return await look(older_than_seconds=older_than_seconds)

    return observe


def _authority(path: str) -> str:
    """Return the broker's certificate authority, which workers get with their queue."""
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except OSError:
        raise Invalid(f"EVERESTHOOD_REDIS_CA_FILE names {path}, which cannot be read.") from None


def _key(path: str, variable: str) -> bytes:
    """Return the key of a file; without one a process must not start."""
    try:
        key = Path(path).read_bytes().strip()
    except OSError:
        raise Invalid(f"Set {variable} to a file with a key: {path or 'nothing'} cannot be read.") from None
    if len(key) < _SHORTEST_KEY:
        raise Invalid(f"The key in {path} ({variable}) must have at least {_SHORTEST_KEY} bytes.")
    return key
