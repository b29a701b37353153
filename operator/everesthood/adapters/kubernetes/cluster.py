"""Writes to the cluster, each answer kept in the cache at once; implements the port `Cluster`."""

from typing import Any, Final

from everesthood.adapters.kubernetes.cache import live_of
from everesthood.adapters.kubernetes.client import JSON_PATCH, Client, object_path
from everesthood.adapters.kubernetes.events import Events
from everesthood.adapters.kubernetes.watching import Watching
from everesthood.apis import names
from everesthood.domain.children import Child
from everesthood.domain.conditions import Notice
from everesthood.domain.observed import API_VERSIONS, Key, Kind, Live
from everesthood.usecases.ports.cluster import ApiError

PLURALS: Final[dict[Kind, str]] = {
    Kind.INSTANCE: "agentinstances",
    Kind.TEMPLATE: "agenttemplates",
    Kind.CREDENTIAL: "agentcredentials",
    Kind.SERVICE_ACCOUNT: "serviceaccounts",
    Kind.NETWORK_POLICY: "networkpolicies",
    Kind.DEPLOYMENT: "deployments",
    Kind.DISRUPTION_BUDGET: "poddisruptionbudgets",
    Kind.REVISION: "controllerrevisions",
}
_NOT_FOUND: Final = 404


def path_of(kind: Kind, namespace: str = "", name: str = "") -> str:
    """Return the path of an object of a kind, or of the list of all."""
    return object_path(API_VERSIONS[kind], PLURALS[kind], namespace=namespace, name=name)


class KubernetesCluster:
    """The one place that writes objects."""

    def __init__(self, client: Client, watching: Watching, events: Events) -> None:
        """Write through `client`, tell `watching` what came of it."""
        self._client = client
        self._watching = watching
        self._events = events

    async def look(self, key: Key) -> Live | None:
        """Return the object as it is now."""
        try:
            return live_of(key.kind, await self._client.get(_path(key)))
        except ApiError as error:
            if error.status == _NOT_FOUND:
                return None
            raise

    async def apply(self, child: Child, live: Live | None) -> Live:
        """Server-side apply; a uid in the body makes the API server refuse any other object.

        What should not be there yet is applied without force: somebody else's object of that name holds
        fields with other values, which is a conflict.
        """
        body: dict[str, Any] = child.body
        if live is not None:
            body = {**body, "metadata": {**body["metadata"], "uid": live.uid}}
        raw = await self._client.apply(_path(child.key), body, force=live is not None)
        answer = live_of(child.key.kind, raw)
        self._watching.wrote(answer)
        return answer

    async def apply_status(self, live: Live, status: dict[str, object]) -> None:
        """Write the status of one of our kinds."""
        body = {**_identity(live), "status": status}
        self._keep(live.key.kind, await self._client.apply_status(_path(live.key), body))

    async def delete(self, live: Live) -> None:
        """Delete that very object."""
        await self._client.delete(_path(live.key), uid=live.uid)

    async def hold(self, live: Live) -> None:
        """Put our finalizer on the object, by a manager of its own, so that nothing else is owned."""
        body = _identity(live)
        body["metadata"]["finalizers"] = [names.FINALIZER]
        answer = await self._client.apply(_path(live.key), body, manager=names.FINALIZER_MANAGER)
        self._keep(live.key.kind, answer)

    async def release(self, live: Live) -> None:
        """Take our finalizer off the object."""
        path = _path(live.key)
        try:
            answer = await self._client.apply(path, _identity(live), manager=names.FINALIZER_MANAGER)
            if names.FINALIZER in (answer["metadata"].get("finalizers") or ()):
                await self._cut(path, answer)  # somebody restored it from a copy: not ours to un-apply
        except ApiError as error:
            if not error.is_gone:
                raise

    async def _cut(self, path: str, raw: dict[str, Any]) -> None:
        index = raw["metadata"]["finalizers"].index(names.FINALIZER)
        where = f"/metadata/finalizers/{index}"
        patch = [
            {"op": "test", "path": where, "value": names.FINALIZER},
            {"op": "remove", "path": where},
        ]
        await self._client.request("PATCH", path, body=patch, content_type=JSON_PATCH)

    async def tell(self, about: Live, notice: Notice) -> None:
        """Write an Event."""
        await self._events.tell(about, notice)

    def _keep(self, kind: Kind, raw: dict[str, Any]) -> None:
        self._watching.wrote(live_of(kind, raw))


def _path(key: Key) -> str:
    return path_of(key.kind, key.namespace, key.name)


def _identity(live: Live) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSIONS[live.key.kind],
        "kind": live.key.kind.value,
        "metadata": {"name": live.key.name, "namespace": live.key.namespace, "uid": live.uid},
    }
