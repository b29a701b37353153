"""Kopf as a shell: it authenticates, lists and watches; what it sees goes into the cache, and that is all.

Everything by which Kopf would write to users' objects is off: it patches annotations and finalizers
onto them otherwise. Its tasks are ended here, because its own way to end cancels every task of the
loop that began after it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

import kopf

from everesthood.adapters.kubernetes.cache import live_of
from everesthood.adapters.kubernetes.client import Client
from everesthood.adapters.kubernetes.cluster import PLURALS
from everesthood.adapters.kubernetes.sweeper import selector_of
from everesthood.adapters.kubernetes.watching import Watching
from everesthood.domain.observed import API_VERSIONS, Kind, Live

_CHUNK: Final = 100
_KOPF_READS: Final = frozenset({"apiVersion", "kind", "metadata"})
_IDLE_SECONDS: Final = 1.0
_WATCH_SECONDS: Final = 300
_REQUEST_SECONDS: Final = 15

Saw = Callable[[str | None, Live], None]


def build_registry(saw: Saw, client: Client) -> kopf.OperatorRegistry:
    """Return the handlers: one a kind, and none that Kopf would keep state for."""
    registry = kopf.OperatorRegistry()
    for kind in Kind:
        _observe(kind, saw, registry)
    kopf.on.login(registry=registry, id="login")(_login(client))
    kopf.on.startup(registry=registry, id="configure")(configure)
    return registry


def _observe(kind: Kind, saw: Saw, registry: kopf.OperatorRegistry) -> None:
    group, version = _group(kind)

    @kopf.on.event(group, version, PLURALS[kind], registry=registry, id=f"watch-{PLURALS[kind]}")
    async def observe(event: kopf.RawEvent, **_: object) -> None:
        raw = cast("dict[str, Any]", event["object"])
        saw(event["type"], live_of(kind, raw))
        _lighten(raw)


def _lighten(raw: dict[str, Any]) -> None:
    """Empty an object that was taken in: Kopf holds thousands of them for a while when it starts."""
    for name in raw.keys() - _KOPF_READS:
        del raw[name]
    raw["metadata"].pop("managedFields", None)


def _group(kind: Kind) -> tuple[str, str]:
    group, _, version = API_VERSIONS[kind].rpartition("/")
    return group, version


def _login(client: Client) -> Callable[..., Any]:
    async def login(**_: object) -> kopf.ConnectionInfo:
        found = await client.connection()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_file,
            insecure=not found.verifies,
            scheme="Bearer" if found.token else None,
            token=found.token,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
        )

    return login


def configure(settings: kopf.OperatorSettings, **_: object) -> None:
    """Turn off what writes, bound what waits."""
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.idle_timeout = _IDLE_SECONDS
    settings.watching.chunk_size = _CHUNK
    settings.watching.server_timeout = _WATCH_SECONDS
    settings.networking.request_timeout = _REQUEST_SECONDS
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    for kind in Kind:
        if selector_of(kind):
            group, version = _group(kind)
            settings.watching.label_selectors[group, version, PLURALS[kind]] = selector_of(kind)


async def watch(watching: Watching, client: Client, *, started: Callable[[], None] | None = None) -> None:
    """Watch every kind until cancelled, or until Kopf gives up; `started` is called once it has begun."""
    tasks = await kopf.spawn_tasks(
        registry=build_registry(watching.saw, client), standalone=True, clusterwide=True
    )
    if started is not None:
        started()
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: no handler asks what an object was before."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: object) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Keeps nothing: no handler is ever half done."""

    def fetch(self, **_: object) -> kopf.ProgressRecord | None:
        return None

    def store(self, **_: object) -> None:
        pass

    def purge(self, **_: object) -> None:
        pass

    def touch(self, **_: object) -> None:
        pass

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        return essence
