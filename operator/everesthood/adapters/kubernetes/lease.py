"""Leader election by a Lease: of several controllers one works, the others keep their caches warm."""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from prometheus_client import Gauge

from everesthood.adapters.kubernetes.client import Client, Json, object_path
from everesthood.domain.errors import EveresthoodError
from everesthood.usecases.ports.cluster import ApiError

_LOG: Final = logging.getLogger(__name__)
_LEADER: Final = Gauge("everesthood_leader", "1 while this process leads.")
_NOT_FOUND: Final = 404

DURATION_SECONDS: Final = 15.0
RENEW_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 2.0


class Lease:
    """Holds a Lease for as long as possible; `lost` is set when it can no longer be held."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Compete as `identity`."""
        self._client = client
        self._namespace, self._name, self._identity = namespace, name, identity
        self._path = object_path("coordination.k8s.io/v1", "leases", namespace=namespace)
        self._clock = clock
        self._renewed_at = 0.0
        self._seen: tuple[str, float] = ("", 0.0)
        """The record last seen, and when: a holder is judged by our clock, never by its own."""
        self.leads = asyncio.Event()
        self.lost = asyncio.Event()

    async def run(self) -> None:
        """Compete, hold, and end when the Lease is lost."""
        while not await self._try():  # noqa: ASYNC110 - another process decides, not an event of ours
            await asyncio.sleep(RETRY_SECONDS)
        _LOG.info("this process leads as %s", self._identity)
        _LEADER.set(1)
        self.leads.set()
        try:
            await self._hold()
        finally:
            _LEADER.set(0)
            self.lost.set()

    async def release(self) -> None:
        """Let the next one take over at once; called when all work has ended."""
        if not self.leads.is_set():
            return
        try:
            found = await self._client.get(f"{self._path}/{self._name}")
            if found["spec"].get("holderIdentity") == self._identity:
                found["spec"]["holderIdentity"] = ""
                found["spec"]["leaseDurationSeconds"] = 1
                await self._client.request("PUT", f"{self._path}/{self._name}", body=found)
        except EveresthoodError as error:
            _LOG.warning("lease not released, it will expire: %s", error.message)

    async def _hold(self) -> None:
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            left = self._renewed_at + RENEW_SECONDS - self._clock()
            try:
                async with asyncio.timeout(max(left, 0.1)):
                    held = await self._try()
            except TimeoutError:
                held = False
            if not held and self._clock() - self._renewed_at >= RENEW_SECONDS:
                _LOG.error("the lease could not be renewed within %.0f s", RENEW_SECONDS)
                return
            if not held and self._seen[0] != self._identity:
                _LOG.error("another process took the lease")
                return

    async def _try(self) -> bool:
        """Take or renew the Lease if it is free, expired or ours."""
        started = self._clock()
        try:
            if await self._write():
                self._renewed_at = started
                return True
        except EveresthoodError as error:
            _LOG.warning("lease not renewed: %s", error.message)
        return False

    async def _write(self) -> bool:
        try:
            found = await self._client.get(f"{self._path}/{self._name}")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            await self._client.create(self._path, self._body(None))
            self._seen = (self._identity, self._clock())
            return True
        if not self._is_free(found):
            return False
        await self._client.request("PUT", f"{self._path}/{self._name}", body=self._body(found))
        self._seen = (self._identity, self._clock())
        return True

    def _is_free(self, found: Json) -> bool:
        spec = found.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if holder in ("", self._identity):
            return True
        mark = f"{holder}@{spec.get('renewTime')}"
        if self._seen[0] != mark:
            self._seen = (mark, self._clock())
        return self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)

    def _body(self, found: Json | None) -> Json:
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before: Json = (found or {}).get("spec") or {}
        mine = before.get("holderIdentity") == self._identity
        spec: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(DURATION_SECONDS),
            "renewTime": at,
            "acquireTime": before.get("acquireTime") if mine else at,
            "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if mine or not found else 1),
        }
        meta = {"name": self._name, "namespace": self._namespace}
        if found is not None:
            meta["resourceVersion"] = found["metadata"]["resourceVersion"]
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": spec}
