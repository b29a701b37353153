"""A worker's own cost: runs per second through the work loop, and how full it keeps its slots.

The gateway is a dictionary in the same process, so what is measured is claiming, executing, checkpointing
and handing in; the peer is the same steps called without a worker around them.
"""

import asyncio
import resource
import statistics
import time
from typing import Any

from tests.support.worker import FakeGateway, Serving, agent, doing, execute, executing, raw, step

from everesthood.apis.wire import Assignment
from everesthood.domain.steps import Agent
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.ports.worker import Scope

RUNS = 20_000
ROUNDS = 3
SLOTS = 100
STEP_SECONDS = 0.1
NO_OP = agent(step("a", value="1"))


class Bench(FakeGateway):
    """A gateway that keeps no requests and takes a moment to answer, as a real one does."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.keep_requests = False
        self._seconds = seconds

    async def work(self, request: Any) -> Any:
        await asyncio.sleep(self._seconds)
        return await super().work(request)


class Sleeps:
    """A step that waits, as one on the network does."""

    async def run(self, _: Scope) -> object:
        await asyncio.sleep(STEP_SECONDS)
        return 1


async def through_worker(what: Agent, by: Doing, runs: int, *, seconds: float = 0.0) -> tuple[float, float]:
    """Return (wall seconds, CPU seconds) for the runs to be finished."""
    gateway = Bench(seconds)
    gateway.add(runs, None)
    began, used = time.perf_counter(), time.process_time()
    async with Serving(gateway, executing(what, by), slots=SLOTS):
        await gateway.until(lambda: not gateway.due, 600)
        await gateway.until_over(600)
        return time.perf_counter() - began, time.process_time() - used


async def without_worker(what: Agent, by: Doing, runs: int) -> float:
    """Return the seconds that the same attempts take one after another, without a worker."""
    began = time.perf_counter()
    given = Assignment(
        run="r",
        fence=1,
        attempt=1,
        input=raw(None),
        request_id="",
        seconds_left=3600.0,
        lease_seconds=30,
    )
    for _ in range(runs):
        await execute(what, given, by=by)
    return time.perf_counter() - began


async def main() -> None:
    """Print the table."""
    by = doing()
    rates, bare, cpu = [], [], []
    for _ in range(ROUNDS):
        wall, used = await through_worker(NO_OP, by, RUNS)
        rates.append(RUNS / wall)
        cpu.append(used / RUNS * 1e6)
        bare.append(RUNS / await without_worker(NO_OP, by, RUNS))
    rate, alone = statistics.median(rates), statistics.median(bare)
    print(f"no-op runs through the worker   {rate:8.0f} /s   {statistics.median(cpu):6.1f} µs of CPU a run")
    print(f"the same without a worker       {alone:8.0f} /s   ratio {rate / alone:.2f}")

    waiting = Doing(runner=Sleeps(), expressions=by.expressions, figures=by.figures)
    ideal = 4000 * STEP_SECONDS / SLOTS
    shares = [ideal / (await through_worker(NO_OP, waiting, 4000, seconds=0.003))[0] for _ in range(ROUNDS)]
    print(f"100 ms steps at {SLOTS} slots       {statistics.median(shares):8.1%} of ideal (target 95 %)")
    print(
        f"peak memory                     {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.1f} MiB"
    )


if __name__ == "__main__":
    asyncio.run(main())
