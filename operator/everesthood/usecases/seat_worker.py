"""Tell who a worker is: from its token to its pod, from the pod to its instance and revision."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from everesthood.apis.names import GATEWAY_AUDIENCE
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, Unauthenticated
from everesthood.usecases.ports.identity import Identities, Identity, PodOwners
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat

_KEEP_SECONDS: Final = 60.0
_MOST: Final = 20_000
_PREFIX: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"


class SeatWorker:
    """Seats workers; an answer holds for a minute, a refusal for no time at all."""

    def __init__(
        self,
        *,
        identities: Identities,
        owners: PodOwners,
        store: GatewayStore,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep whom to ask."""
        self._identities = identities
        self._owners = owners
        self._store = store
        self._now = now
        self._known: OrderedDict[bytes, tuple[float, WorkerSeat]] = OrderedDict()

    async def __call__(self, token: str, revision: str | None = None) -> WorkerSeat:
        """Return the seat of the token's pod.

        Raises:
            Unauthenticated: the token is not valid for the gateway.
            Forbidden: it is, but of no worker of a published instance, or of another revision.
            Unavailable: Kubernetes or the record cannot be asked.
        """
        if not token:
            raise Unauthenticated("Send the worker's ServiceAccount token as Authorization: Bearer.")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        if known is None or known[0] < self._now():
            known = (self._now() + _KEEP_SECONDS, await self._find(token))
            self._keep(digest, known)
        seat = known[1]
        if revision is not None and revision != seat.revision:
            raise _not_yours(f"The pod belongs to revision {seat.revision}, not to {revision}.")
        return seat

    def _keep(self, digest: bytes, known: tuple[float, WorkerSeat]) -> None:
        self._known[digest] = known
        self._known.move_to_end(digest)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)

    async def _find(self, token: str) -> WorkerSeat:
        identity = await self._identities.authenticate(token, (GATEWAY_AUDIENCE,))
        namespace, account = _service_account(identity)
        pod, pod_uid = _extra(identity, _POD_NAME), _extra(identity, _POD_UID)
        uid, revision = await self._owners.seat(namespace, pod, pod_uid)
        instance = await self._store.instance(uid)
        if instance is None:
            raise _not_yours("The pod's AgentInstance is not published or was deleted.")
        if (instance.namespace, instance.service_account) != (namespace, account):
            raise _not_yours("The token is not of the AgentInstance that the pod belongs to.")
        return WorkerSeat(
            instance_uid=uid, namespace=namespace, instance=instance.name, revision=revision, pod=pod
        )


def _service_account(identity: Identity) -> tuple[str, str]:
    namespace, _, account = identity.username.removeprefix(_PREFIX).partition(":")
    if not identity.username.startswith(_PREFIX) or not namespace or not account:
        raise _not_yours("The token is not of a ServiceAccount.")
    return namespace, account


def _extra(identity: Identity, key: str) -> str:
    values = identity.extra.get(key, ())
    if len(values) != 1 or not values[0]:
        raise _not_yours("The token is not bound to a pod.")
    return values[0]


def _not_yours(said: str) -> Forbidden:
    return Forbidden(said, Reason.NOT_YOURS)
