"""Tell a worker how to reach its queue; the password is derived, so nobody keeps it."""

from dataclasses import dataclass

from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import QueueLease
from everesthood.domain.broker import broker_password
from everesthood.domain.errors import Unavailable
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where Redis is for workers, and the key that their passwords come from."""

    host: str
    port: int
    tls: bool
    bell_key: bytes
    ca: str = ""
    """Certificate authority as PEM; empty means those of the worker's system."""

    def __repr__(self) -> str:
        """Show the address only."""
        return f"Broker({self.host}:{self.port})"


async def lease_queue(*, store: GatewayStore, broker: Broker, seat: WorkerSeat) -> QueueLease:
    """Return the address, user and password of the worker's own queue.

    Raises:
        Unavailable: the scheduler has not made the user yet; a moment later it has.
    """
    if not await store.queue_ready(seat.instance_uid):
        said = "The queue's broker user is not made yet."
        raise Unavailable(said, Reason.QUEUE_PENDING, retry_after_seconds=1)
    return QueueLease(
        host=broker.host,
        port=broker.port,
        user=names.broker_user(seat.instance_uid),
        password=broker_password(broker.bell_key, seat.instance_uid),
        prefix=names.queue_prefix(seat.instance_uid),
        queue=names.queue_name(seat.revision),
        tls=broker.tls,
        ca=broker.ca,
    )
