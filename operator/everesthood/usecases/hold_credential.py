"""Hold the credential that a worker's instance binds to a slot, because its provider asked to wait."""

import logging
import math

from everesthood.apis.wire import HoldReply
from everesthood.domain.errors import Invalid
from everesthood.domain.limits import LONGEST_HOLD_SECONDS
from everesthood.usecases.lease_credential import credential_of
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat

log = logging.getLogger(__name__)


async def hold_credential(*, store: GatewayStore, seat: WorkerSeat, slot: str, seconds: float) -> HoldReply:
    """Let no run of any instance that binds the credential start for so long; return for how long it is.

    Raises:
        Invalid: that is no length of time.
        NotFound: the slot is not bound, or the credential is not there.
        Forbidden: the credential is not for this instance or slot.
        Unavailable: the record cannot be asked.
    """
    if not (math.isfinite(seconds) and seconds > 0):
        raise Invalid("seconds: must be a number of seconds above 0.")
    credential, _ = await credential_of(store, seat, slot)
    held = min(seconds, LONGEST_HOLD_SECONDS)
    await store.hold_credential(seat.namespace, credential.name, held)
    log.info("credential %s of %s is held for %.0f s", credential.name, seat.namespace, held)
    return HoldReply(seconds=held)
