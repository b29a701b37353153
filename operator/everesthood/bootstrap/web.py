"""Wires the REST API."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from everesthood.adapters.languages import Languages
from everesthood.adapters.postgres import (
    Database,
    Listener,
    PostgresControl,
    PostgresGateway,
    PostgresRuns,
    check_schema,
)
from everesthood.adapters.redis import RedisBell
from everesthood.adapters.redis import connect as connect_redis
from everesthood.bootstrap.connections import open_database, redis_address
from everesthood.bootstrap.surroundings import surroundings
from everesthood.settings import Settings
from everesthood.usecases.audit_refusals import AuditRefusals
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.request_run import RequestRun


@dataclass(frozen=True, slots=True, kw_only=True)
class WebParts:
    """What the web process works with."""

    database: Database
    authorizer: Authorizer
    runs: PostgresRuns
    control: PostgresControl
    bell: RedisBell
    request_run: RequestRun

    async def check_schema(self) -> None:
        """Raise Conflict on a schema that this version does not know, Unavailable when PostgreSQL is away."""
        await check_schema(self.database)


@asynccontextmanager
async def web_parts(settings: Settings) -> AsyncIterator[WebParts]:
    """Yield the collaborators and close what they hold."""
    async with AsyncExitStack() as stack:
        database = open_database(settings, "web")
        stack.push_async_callback(database.close)
        listener = Listener(database)
        stack.push_async_callback(listener.close)
        runs = PostgresRuns(database, listener)
        stack.push_async_callback(runs.close)
        control = PostgresControl(database)
        stack.push_async_callback(control.close)
        bell = RedisBell(connect_redis(redis_address(settings), process="web"))
        stack.push_async_callback(bell.aclose)
        refusals = AuditRefusals(PostgresGateway(database).audit, time.monotonic)
        stack.push_async_callback(refusals.close)
        around = await stack.enter_async_context(surroundings(settings))
        yield WebParts(
            database=database,
            authorizer=Authorizer(around.identities, time.monotonic, refusals),
            runs=runs,
            control=control,
            bell=bell,
            request_run=RequestRun(
                runs=runs, bell=bell, schemas=Languages(), now=lambda: datetime.now(UTC), random=os.urandom
            ),
        )
