"""Wires the controller."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from everesthood.adapters.kubernetes.cache import Cache
from everesthood.adapters.kubernetes.client import Client, connect
from everesthood.adapters.kubernetes.cluster import KubernetesCluster, path_of
from everesthood.adapters.kubernetes.events import Events
from everesthood.adapters.kubernetes.lease import Lease
from everesthood.adapters.kubernetes.sweeper import Sweeper
from everesthood.adapters.kubernetes.watching import Watching
from everesthood.adapters.kubernetes.workqueue import WorkQueue
from everesthood.adapters.languages import Languages
from everesthood.adapters.postgres.listen import Listener
from everesthood.adapters.postgres.migrate import check_schema
from everesthood.adapters.postgres.pool import Database
from everesthood.adapters.postgres.registry import PostgresRegistry
from everesthood.bootstrap.connections import open_database
from everesthood.bootstrap.installation import site_of
from everesthood.domain.errors import EveresthoodError, Unavailable
from everesthood.domain.observed import OURS, Key, Kind
from everesthood.settings import Settings
from everesthood.usecases.ports.registry import Registry
from everesthood.usecases.publish import Publisher
from everesthood.usecases.reconcile_credential import CredentialTools, reconcile_credential
from everesthood.usecases.reconcile_instance import InstanceTools, reconcile_instance
from everesthood.usecases.reconcile_template import TemplateTools, reconcile_template
from everesthood.usecases.remove_ghosts import remove_ghosts
from everesthood.usecases.scale_workers import ScaleWorkers
from everesthood.usecases.watch_demand import DemandWatch

LEASE_NAME: Final = "everesthood-controller"
_LOG: Final = logging.getLogger(__name__)
_WORKER_CONNECTIONS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller:
    """The parts of the controller."""

    client: Client
    cache: Cache
    queue: WorkQueue[Key]
    watching: Watching
    sweeper: Sweeper
    lease: Lease
    registry: Registry
    publisher: Publisher
    watch: DemandWatch
    reconcile: Callable[[Key], Awaitable[float | None]]
    workers: int
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def unserved(self) -> str | None:
        """Return why our kinds cannot be watched yet."""
        for kind in sorted(OURS):
            try:
                await self.client.get(path_of(kind), query={"limit": 1})
            except EveresthoodError as error:
                return f"{kind.value}: {error.message}"
        return None


@asynccontextmanager
async def wire(settings: Settings, registry: Registry | None = None) -> AsyncIterator[Controller]:
    """Yield the controller's parts, and close what they hold; tests bring a registry of their own."""
    async with (
        await connect(
            settings.kubeconfig, connections=settings.reconcile_workers * _WORKER_CONNECTIONS
        ) as client,
        _registry(settings, registry) as record,
    ):
        yield build(settings, client, record)


@asynccontextmanager
async def _registry(settings: Settings, given: Registry | None) -> AsyncIterator[Registry]:
    if given is not None:
        yield given
        return
    database = open_database(settings, "controller")
    listener = Listener(database)
    registry = PostgresRegistry(database, listener)
    try:
        await _check(database)
        yield registry
    finally:
        await registry.close()
        await listener.close()
        await database.close()


async def _check(database: Database) -> None:
    """Refuse an unknown schema; without a record the cluster still goes on."""
    try:
        await check_schema(database)
    except Unavailable as error:
        _LOG.warning("the record cannot be reached: %s", error.message)


def build(settings: Settings, client: Client, registry: Registry) -> Controller:
    """Put the parts together."""
    identity = settings.identity or f"{socket.gethostname()}-{os.getpid()}"
    cache, queue = Cache(), WorkQueue[Key]()
    watching = Watching(cache, queue)
    cluster = KubernetesCluster(client, watching, Events(client, _now, identity))
    publisher = Publisher(registry)
    watch = DemandWatch(registry, time.monotonic)
    lease = Lease(client, namespace=settings.namespace, name=LEASE_NAME, identity=identity)

    async def after_sweep() -> None:
        publisher.doubt()
        if lease.leads.is_set() and not lease.lost.is_set():
            await remove_ghosts(registry, cache)

    return Controller(
        client=client,
        cache=cache,
        queue=queue,
        watching=watching,
        sweeper=Sweeper(client, watching, period_seconds=settings.resync_seconds, after=after_sweep),
        lease=lease,
        registry=registry,
        publisher=publisher,
        watch=watch,
        reconcile=_reconcile(settings, cache, cluster, publisher, watch),
        workers=settings.reconcile_workers,
    )


def _reconcile(
    settings: Settings, cache: Cache, cluster: KubernetesCluster, publisher: Publisher, watch: DemandWatch
) -> Callable[[Key], Awaitable[float | None]]:
    languages, hosts = Languages(), settings.internal_host_set
    instances = InstanceTools(
        view=cache,
        cluster=cluster,
        publisher=publisher,
        languages=languages,
        internal_hosts=hosts,
        site=site_of(settings),
        scale=ScaleWorkers(cluster=cluster, watch=watch, grace_seconds=settings.worker_grace_seconds),
        now=_now,
    )
    templates = TemplateTools(
        view=cache,
        cluster=cluster,
        publisher=publisher,
        languages=languages,
        internal_hosts=hosts,
        now=_now,
    )
    credentials = CredentialTools(
        view=cache, cluster=cluster, publisher=publisher, internal_hosts=hosts, now=_now
    )
    by_kind: dict[Kind, Callable[[Key], Awaitable[float | None]]] = {
        Kind.INSTANCE: partial(reconcile_instance, tools=instances),
        Kind.TEMPLATE: partial(reconcile_template, tools=templates),
        Kind.CREDENTIAL: partial(reconcile_credential, tools=credentials),
    }

    async def reconcile(key: Key) -> float | None:
        return await by_kind[key.kind](key)

    return reconcile


def _now() -> datetime:
    return datetime.now(UTC)
