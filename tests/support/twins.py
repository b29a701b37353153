"""Twins of the cluster for tests without one: a view that is a dictionary, a client that takes notes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from everesthood.adapters.kubernetes.cache import Cache, live_of
from everesthood.apis import names
from everesthood.domain.children import Child
from everesthood.domain.conditions import Notice
from everesthood.domain.observed import API_VERSIONS, Key, Kind, Live
from everesthood.usecases.ports.cluster import ApiError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class TickingClock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass(slots=True)
class TwinCluster:
    """Implements `Cluster` on a cache; `foreign` objects are there without being seen by watches."""

    cache: Cache = field(default_factory=Cache)
    calls: list[tuple[str, Key]] = field(default_factory=list)
    told: list[Notice] = field(default_factory=list)
    foreign: dict[Key, Live] = field(default_factory=dict)
    refuse: dict[Kind, Exception] = field(default_factory=dict)
    version: int = 0

    def next_version(self) -> int:
        self.version += 1
        return self.version

    def put(self, kind: Kind, name: str, *, spec: Any = None, status: Any = None, **meta: Any) -> Live:
        """Act for a person: create or change an object."""
        key = Key(kind, "acme", name)
        before = self.cache.get(key)
        raw = {
            "apiVersion": API_VERSIONS[kind],
            "kind": kind.value,
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": before.uid if before else f"uid-{name}",
                "generation": before.generation + 1 if before else 1,
                "resourceVersion": str(self.next_version()),
                "finalizers": list(before.finalizers) if before else [],
                **meta,
            },
            "spec": spec,
            "status": status if status is not None else json.loads(before.status) if before else {},
        }
        live = live_of(kind, raw)
        self.cache.put(live)
        return live

    def deploy(self, name: str, **status: Any) -> None:
        """Act for the Deployment controller: report a status."""
        live = self.cache.get(Key(Kind.DEPLOYMENT, "acme", name))
        assert live is not None
        said = {"observedGeneration": live.generation, **status}
        self.keep(replace(live, status=json.dumps(said).encode()))

    def keep(self, live: Live) -> Live:
        live = replace(live, resource_version=self.next_version())
        self.cache.put(live)
        return live

    async def look(self, key: Key) -> Live | None:
        self.calls.append(("look", key))
        return self.foreign.get(key) or self.cache.get(key)

    async def apply(self, child: Child, live: Live | None) -> Live:
        self.calls.append(("apply", child.key))
        if child.key in self.foreign:
            # As the API server does: a revision's data is immutable, the rest conflicts without force.
            assert live is None or child.key.kind is Kind.REVISION, f"adopted a strange {child.key}"
            raise ApiError("conflict with another manager", status=409 if live is None else 422)
        if child.key.kind in self.refuse:
            raise self.refuse[child.key.kind]
        body: dict[str, Any] = json.loads(json.dumps(child.body))
        meta = body["metadata"]
        meta["uid"] = live.uid if live else f"uid-{child.key.kind}-{child.key.name}-{self.version}"
        meta["resourceVersion"] = str(self.next_version())
        if child.key.kind is not Kind.SERVICE_ACCOUNT:
            meta["generation"] = live.generation + 1 if live else 1
        status = json.loads(live.status) if live else {}
        answer = live_of(child.key.kind, {**body, "status": status})
        self.cache.put(answer)
        return answer

    async def apply_status(self, live: Live, status: dict[str, object]) -> None:
        self.calls.append(("status", live.key))
        now = self.cache.get(live.key)
        assert now is not None
        self.keep(replace(now, status=json.dumps(status).encode()))

    async def delete(self, live: Live) -> None:
        self.calls.append(("delete", live.key))
        self.cache.drop(live)

    async def hold(self, live: Live) -> None:
        self.calls.append(("hold", live.key))
        self.keep(replace(live, finalizers=(names.FINALIZER,)))

    async def release(self, live: Live) -> None:
        self.calls.append(("release", live.key))
        self.cache.drop(live)

    async def tell(self, _about: Live, notice: Notice) -> None:
        self.told.append(notice)

    def took(self) -> Sequence[tuple[str, Key]]:
        """Return the calls since the last time."""
        calls, self.calls = self.calls, []
        return calls
