"""Tell who a worker is: from its token to its pod, from the pod to its instance and revision."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from everesthood.apis.names import GATEWAY_AUDIENCE
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, Unauthenticated, Unavailable
from everesthood.usecases.ports.identity import Identities, Identity, PodOwners
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat

_FRESH_SECONDS: Final = 60.0
"""An older answer is asked for again, while the worker goes on: a lease may end before that is answered."""
_KEEP_SECONDS: Final = 300.0
"""How long an answer holds where Kubernetes gives no other: its outage ends no run that goes on."""
_MOST: Final = 20_000
_AT_ONCE: Final = 16
"""Questions that nobody waits for."""
_PREFIX: Final = "system:serviceaccount:"
_POD_NAME: Final = "authentication.kubernetes.io/pod-name"
_POD_UID: Final = "authentication.kubernetes.io/pod-uid"


class _Known(NamedTuple):
    """An answer, as old as its question."""

    at: float
    seat: WorkerSeat


class SeatWorker:
    """Seats workers; an answer is asked for again each minute, a refusal holds for no time at all."""

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
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

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
        if known is None or self._age(known) >= _KEEP_SECONDS:
            known = await self._learn(digest, token)
        elif self._age(known) >= _FRESH_SECONDS and digest not in self._asking:
            task = self._asking[digest] = asyncio.create_task(self._ask_again(digest, token))
            task.add_done_callback(lambda _: self._asking.pop(digest, None))
        seat = known.seat
        if revision is not None and revision != seat.revision:
            raise _not_yours(f"The pod belongs to revision {seat.revision}, not to {revision}.")
        return seat

    def _age(self, known: _Known) -> float:
        return self._now() - known.at

    async def _ask_again(self, digest: bytes, token: str) -> None:
        """Renew an answer that is still good, or forget it where it is no longer true."""
        async with self._turns:
            try:
                await self._learn(digest, token)
            except (Unauthenticated, Forbidden):
                self._known.pop(digest, None)
            except Unavailable:
                return  # the next call asks again; the old answer holds as long as it may

    async def _learn(self, digest: bytes, token: str) -> _Known:
        known = _Known(self._now(), await self._find(token))
        self._known[digest] = known
        self._known.move_to_end(digest)
        while len(self._known) > _MOST:
            self._known.popitem(last=False)
        return known

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
