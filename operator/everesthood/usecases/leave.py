"""Let workers leave that are more than needed: the idle first, and none before it says that it holds nothing.

A worker that is asked to leave says what it holds. One that is taken at its word claims nothing from then on,
and only when it has said so, holding nothing, may its pod be deleted. So no pod is deleted under a run.
A container that is started again in the pod of one that leaves knows nothing of that: it is asked anew.
"""

from contextlib import suppress

import msgspec

from everesthood.apis.wire import WorkReply, WorkRequest
from everesthood.domain.errors import Unavailable
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat


class Leaving:
    """Knows the queues that have too many workers and who leaves already, as of the last `refresh`."""

    def __init__(self, store: GatewayStore, bell: Bell) -> None:
        """Know of none yet."""
        self._store = store
        self._bell = bell
        self._queues: frozenset[tuple[str, str]] = frozenset()
        self._leavers: frozenset[tuple[str, str, str]] = frozenset()

    async def refresh(self) -> None:
        """Ask the record which queues have too many workers and who leaves; ring for one of each queue.

        An idle worker asks for nothing for up to half a minute, and is the one to leave. One bell wakes one
        worker; the next refresh rings for the next, as long as one is to be asked.
        """
        self._queues = await self._store.asked_to_leave()
        self._leavers = await self._store.leavers()
        for queue in sorted(self._queues):
            await self._bell.ring(*queue)

    async def answer(self, seat: WorkerSeat, request: WorkRequest, reply: WorkReply) -> WorkReply:
        """Return the reply, with what the worker is to do about leaving.

        A record that cannot be asked now asks nothing of the worker: what it was given is worth more.
        """
        queue = (seat.instance_uid, seat.revision)
        asked = queue in self._queues or (*queue, seat.pod) in self._leavers
        if request.holds is None:
            return msgspec.structs.replace(reply, leave="offer") if asked else reply
        if not (asked or request.leaves):
            return reply
        leaves = request.leaves
        with suppress(Unavailable):
            holds = max(0, request.holds) + len(reply.assignments)
            claims = not request.leaves
            leaves = await self._store.offer_to_leave(seat, holds=holds, claims=claims) or leaves
        return msgspec.structs.replace(reply, leave="yes" if leaves else "offer")
