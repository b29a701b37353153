"""Take runs back from workers that stopped renewing their hold."""

from collections.abc import Mapping

from everesthood.usecases.ports.record import ClockStore


async def rescue_runs(*, clock: ClockStore) -> Mapping[str, int]:
    """Return expired leases to the queue, or end runs that are out of attempts or time."""
    return {f"runs_{outcome}": count for outcome, count in (await clock.rescue()).items()}
