"""Carry out what nobody calls for: deadlines of approvals, and stops of whole organisations."""

from collections.abc import Mapping

from everesthood.usecases.ports.record import ClockStore


async def keep_control(*, clock: ClockStore) -> Mapping[str, int]:
    """End questions whose deadline passed, and cancel what still runs in a stopped organisation."""
    expired = await clock.expire_approvals()
    cancelled = await clock.cancel_stopped()
    return {"approvals_expired": expired, "runs_cancelled": cancelled}
