"""Kubernetes Events: one object for one fact about one object, counted up when it happens again."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from everesthood.adapters.kubernetes.client import MERGE_PATCH, Client, object_path
from everesthood.apis import names
from everesthood.domain.conditions import Notice, stamp
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.observed import API_VERSIONS, Live
from everesthood.usecases.ports.cluster import ApiError

_LOG: Final = logging.getLogger(__name__)
_REMEMBERED: Final = 5000
_NOT_FOUND: Final = 404
_CONFLICT: Final = 409
_NAME_LENGTH: Final = 200
_MESSAGE_LENGTH: Final = 1024


class Events:
    """Writes Events, and never fails its caller."""

    def __init__(self, client: Client, now: Callable[[], datetime], instance: str = "") -> None:
        """Write through `client`, as the reporting instance of that name."""
        self._client = client
        self._now = now
        self._instance = instance
        self._counts: OrderedDict[str, int] = OrderedDict()

    async def tell(self, about: Live, notice: Notice) -> None:
        """Write the Event, or count it up."""
        name = event_name(about, notice)
        path = object_path("v1", "events", namespace=about.key.namespace)
        try:
            count = self._counts.get(name) or await self._create(path, name, about, notice)
            if count:
                await self._count_up(path, name, count, about, notice)
        except EveresthoodError as error:
            _LOG.warning("event not written: %s: %s", notice.reason, error.message)

    async def _create(self, path: str, name: str, about: Live, notice: Notice) -> int:
        """Return 0 when it is created, or how often it was counted before."""
        try:
            await self._client.create(path, self._body(name, about, notice))
        except ApiError as error:
            if error.status != _CONFLICT or error.is_gone:
                raise
            return int((await self._client.get(f"{path}/{name}")).get("count") or 1)
        self._remember(name, 1)
        return 0

    async def _count_up(self, path: str, name: str, count: int, about: Live, notice: Notice) -> None:
        body = {"count": count + 1, "lastTimestamp": stamp(self._now())}
        try:
            await self._client.request("PATCH", f"{path}/{name}", body=body, content_type=MERGE_PATCH)
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise
            await self._client.create(path, self._body(name, about, notice))  # it expired
            count = 0
        self._remember(name, count + 1)

    def _remember(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._counts.move_to_end(name)
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)

    def _body(self, name: str, about: Live, notice: Notice) -> dict[str, Any]:
        at = stamp(self._now())
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSIONS[about.key.kind],
                "kind": about.key.kind.value,
                "name": about.key.name,
                "namespace": about.key.namespace,
                "uid": about.uid,
                "resourceVersion": str(about.resource_version),
            },
            "type": notice.type,
            "reason": notice.reason.value,
            "message": notice.message[:_MESSAGE_LENGTH],
            "source": {"component": names.FIELD_MANAGER},
            "reportingComponent": names.FIELD_MANAGER,
            "reportingInstance": self._instance,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }


def event_name(about: Live, notice: Notice) -> str:
    """Return the same name for the same fact, so that a repeat meets its first occurrence."""
    fact = f"{about.uid}\0{notice.type}\0{notice.reason}\0{notice.message}"
    return f"{about.key.name[:_NAME_LENGTH]}.{hashlib.sha256(fact.encode()).hexdigest()[:16]}"
