"""Take runs back from workers that stopped renewing their hold."""

from collections.abc import Mapping

from everesthood.domain.runs import RunState
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import ClockStore
from everesthood.usecases.repair_bells import repair_bells


async def rescue_runs(*, clock: ClockStore, bell: Bell) -> Mapping[str, int]:
    """Return expired leases to the queue, or end runs that are out of attempts or time.

    What goes back to a queue is rung for at once: its worker may be at rest, and a lease was waited already.
    """
    rescued = await clock.rescue()
    if rescued.get(RunState.QUEUED):
        await repair_bells(clock=clock, bell=bell, older_than_seconds=0.0)
    return {f"runs_{outcome}": count for outcome, count in rescued.items()}
