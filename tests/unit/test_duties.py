"""Duties of the scheduler: one process does each, a failure never ends it, a hang is told."""

import asyncio
from collections import Counter

import pytest

from everesthood.adapters.memory import MemoryClock, Record
from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.scheduler.duties import DutyRunner
from everesthood.usecases.duties import Duty


class Chores:
    """Counts passes and lets a test wait for the next."""

    def __init__(self, failures: int = 0) -> None:
        self.passes = 0
        self.failures = failures
        self.done = asyncio.Event()

    async def work(self) -> Counter[str]:
        self.passes += 1
        if self.passes <= self.failures:
            raise Unavailable("PostgreSQL is away")
        self.done.set()
        return Counter(done=1)

    def duty(self) -> Duty:
        return Duty(name="chores", period_seconds=0.01, work=self.work)


@pytest.fixture
def clock() -> MemoryClock:
    return MemoryClock(Record())


async def test_a_failing_pass_does_not_end_the_duty(clock):
    """After PostgreSQL was away, the scheduler goes on by itself."""
    chores = Chores(failures=2)
    task = asyncio.create_task(DutyRunner(chores.duty(), lead=clock.lead).run())
    async with asyncio.timeout(10):
        await chores.done.wait()
    task.cancel()

    assert chores.passes >= 3


async def test_one_of_two_schedulers_does_a_duty_and_the_other_takes_over(clock):
    """Two schedulers never do a duty at once, and the second does it when the first is gone."""
    first, second = Chores(), Chores()
    leader = asyncio.create_task(DutyRunner(first.duty(), lead=clock.lead).run())
    async with asyncio.timeout(10):
        await first.done.wait()
    standby = asyncio.create_task(DutyRunner(second.duty(), lead=clock.lead).run())
    first.done.clear()
    async with asyncio.timeout(10):
        await first.done.wait()
    on_standby = second.passes
    leader.cancel()
    async with asyncio.timeout(10):
        await second.done.wait()
    standby.cancel()

    assert on_standby == 0


async def test_a_leader_without_success_says_so(clock):
    """Health names the duty's trouble once the last success is too old."""
    time = [0.0]
    chores = Chores(failures=10**9)
    runner = DutyRunner(chores.duty(), lead=clock.lead, now=lambda: time[0])
    task = asyncio.create_task(runner.run())
    async with asyncio.timeout(10):
        while chores.passes < 2:
            await asyncio.sleep(0.01)
    early = runner.trouble()
    time[0] = 1000.0
    late = runner.trouble()
    task.cancel()

    assert early is None
    assert late is not None
    assert "PostgreSQL is away" in late


def test_a_hung_pass_is_given_up_later_than_a_slow_one():
    """A pass has at least half a minute, and ten periods where those are longer."""
    slow = Duty(name="a", period_seconds=60, work=Chores.work)  # type: ignore[arg-type]
    quick = Duty(name="b", period_seconds=1, work=Chores.work)  # type: ignore[arg-type]

    assert (slow.timeout_seconds, quick.timeout_seconds) == (600, 30)
    assert (slow.patience_seconds, quick.patience_seconds) == (180, 10)
