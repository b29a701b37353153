"""Follows a worker pod's owners up to its AgentInstance, for the gateway."""

from collections import OrderedDict
from typing import Any, Final

from everesthood.adapters.kubernetes.client import object_path
from everesthood.adapters.kubernetes.identity import Asks, ask
from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, Unavailable
from everesthood.usecases.ports.cluster import ApiError

_NOT_FOUND: Final = 404
_MOST: Final = 20_000
_GONE_PHASES: Final = frozenset({"Succeeded", "Failed"})


class KubernetesPodOwners:
    """Implements `usecases.ports.identity.PodOwners`."""

    def __init__(self, client: Asks) -> None:
        """Ask through `client`, whose account may get pods, ReplicaSets and Deployments."""
        self._client = client
        self._ends: OrderedDict[tuple[str, str, str], tuple[str, str]] = OrderedDict()
        """A ReplicaSet, by namespace, name and uid → (instance uid, revision), which it keeps."""

    async def seat(self, namespace: str, pod: str, pod_uid: str) -> tuple[str, str]:
        """Return (instance uid, revision) at the end of pod → ReplicaSet → Deployment → AgentInstance."""
        found = await self._get("v1", "pods", namespace, pod)
        if found["metadata"]["uid"] != pod_uid:
            raise _not_yours(f"Pod {namespace}/{pod} is not the one that the token was made for.")
        if (found.get("status") or {}).get("phase") in _GONE_PHASES:
            raise _not_yours(f"Pod {namespace}/{pod} is over.")
        owner = _controller(found, "ReplicaSet", "apps/v1")
        key = (namespace, str(owner["name"]), str(owner["uid"]))
        end = self._ends.get(key) or await self._end(found)
        self._ends[key] = end
        self._ends.move_to_end(key)
        if len(self._ends) > _MOST:
            self._ends.popitem(last=False)
        return end

    async def _end(self, pod: dict[str, Any]) -> tuple[str, str]:
        replica_set = await self._owner(pod, "ReplicaSet", "replicasets")
        deployment = await self._owner(replica_set, "Deployment", "deployments")
        instance = _controller(deployment, "AgentInstance", names.API_VERSION)
        revision = (deployment["metadata"].get("labels") or {}).get(names.LABEL_REVISION)
        if not revision:
            raise _not_yours(f"Deployment {deployment['metadata']['name']} carries no revision.")
        return instance["uid"], revision

    async def _owner(self, child: dict[str, Any], kind: str, plural: str) -> dict[str, Any]:
        reference = _controller(child, kind, "apps/v1")
        owner = await self._get("apps/v1", plural, child["metadata"]["namespace"], reference["name"])
        if owner["metadata"]["uid"] != reference["uid"]:
            raise _not_yours(f"{kind} {reference['name']} was replaced by another of that name.")
        return owner

    async def _get(self, api_version: str, plural: str, namespace: str, name: str) -> dict[str, Any]:
        path = object_path(api_version, plural, namespace=namespace, name=name)
        try:
            return await ask(self._client, "GET", path)
        except ApiError as error:
            if error.status == _NOT_FOUND:
                raise _not_yours(f"There is no {plural.removesuffix('s')} {namespace}/{name}.") from error
            # Our own account may not read, as just after the API server's start: not the worker's fault.
            raise Unavailable(
                f"Kubernetes does not show {plural}: {error.message}", Reason.KUBERNETES_UNAVAILABLE
            ) from error


def _controller(child: dict[str, Any], kind: str, api_version: str) -> dict[str, Any]:
    """Return the reference to the controlling owner; a second, smuggled owner never counts."""
    for reference in child["metadata"].get("ownerReferences") or ():
        if reference.get("controller") is True:
            if reference["kind"] == kind and reference["apiVersion"] == api_version:
                return dict(reference)
            break
    raise _not_yours(f"{child['metadata']['name']} is not controlled by a {kind} of ours.")


def _not_yours(message: str) -> Forbidden:
    return Forbidden(message, Reason.NOT_YOURS)
