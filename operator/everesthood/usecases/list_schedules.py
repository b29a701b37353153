"""List the schedules of an instance, or find one of them."""

from collections.abc import Sequence

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import NotFound
from everesthood.usecases.ports.record import RunStore, StoredSchedule


async def list_schedules(runs: RunStore, namespace: str, instance: str) -> Sequence[StoredSchedule]:
    """Return the schedules of an instance by name."""
    target = await runs.target(namespace, instance)
    if target is None:
        raise NotFound(
            f"There is no AgentInstance {instance!r} in namespace {namespace!r}.", Reason.INSTANCE_NOT_FOUND
        )
    return await runs.schedules(target.uid)


async def find_schedule(runs: RunStore, namespace: str, instance: str, name: str) -> StoredSchedule:
    """Return the schedule of that name."""
    for found in await list_schedules(runs, namespace, instance):
        if found.schedule.name == name:
            return found
    raise NotFound(
        f"AgentInstance {instance!r} in namespace {namespace!r} has no schedule {name!r}.",
        Reason.SCHEDULE_NOT_FOUND,
    )
