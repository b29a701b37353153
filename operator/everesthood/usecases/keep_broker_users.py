"""Keep one broker user per instance: made when it appears, remade when Redis forgot, removed with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from everesthood.usecases.ports.bell import BrokerUsers
from everesthood.usecases.ports.record import ClockStore, QueueOwner


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPlan:
    """What a pass does; deterministic, so that two leaders at once do no harm."""

    ensure: Sequence[str]
    remove: Sequence[str]
    mark_ready: Sequence[str]
    mark_gone: Sequence[str]


def plan_users(owners: Sequence[QueueOwner], existing: frozenset[str], *, every: bool) -> UserPlan:
    """Decide which users to make and remove; `every`: also bring back those that exist."""
    wanted = {owner.instance_uid for owner in owners if owner.wanted}
    gone = [owner.instance_uid for owner in owners if not owner.wanted]
    return UserPlan(
        ensure=sorted(wanted if every else wanted - existing),
        # Of an instance that is gone even where no user is left: its keys may be.
        remove=sorted({*gone, *(existing - wanted)}),
        mark_ready=sorted(o.instance_uid for o in owners if o.wanted and not o.ready),
        mark_gone=sorted(gone),
    )


@dataclass(slots=True, kw_only=True)
class BrokerUserKeeper:
    """Runs passes; the first one of a leader brings every user to the rights of this version."""

    clock: ClockStore
    users: BrokerUsers
    _first: bool = field(default=True, init=False)

    async def keep(self) -> Mapping[str, int]:
        """Make, remake and remove users, then tell the record what is there now."""
        await self.users.ensure_bell()
        # Users first: an instance that is published in between must not look like a leftover.
        existing = await self.users.existing()
        plan = plan_users(await self.clock.queue_owners(), existing, every=self._first)
        for uid in plan.ensure:
            await self.users.ensure(uid)
        for uid in plan.remove:
            await self.users.remove(uid)
        if plan.mark_ready or plan.mark_gone:
            await self.clock.mark_queues(plan.mark_ready, plan.mark_gone)
        self._first = False
        return {"users_made": len(plan.ensure), "users_removed": len(plan.remove)}
