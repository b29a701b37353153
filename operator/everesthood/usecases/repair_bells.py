"""Ring again for due work that nobody claimed: a bell may be lost, work may not."""

from collections.abc import Mapping

from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import ClockStore


async def repair_bells(*, clock: ClockStore, bell: Bell, older_than_seconds: float) -> Mapping[str, int]:
    """Ring every queue whose oldest due, unclaimed run has waited that long."""
    due = await clock.due_bells(older_than_seconds)
    for queue in due:
        await bell.ring(queue.instance_uid, queue.revision)
    return {"bells": len(due)}
