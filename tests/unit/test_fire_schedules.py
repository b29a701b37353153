"""A pass over due schedules: all of them, each queue rung after its commit, and one plain error when it fails."""

import asyncio

import pytest

from everesthood.adapters.memory.bell import MemoryBell
from everesthood.domain.errors import Unavailable
from everesthood.usecases.fire_schedules import BATCH, LANES, fire_schedules
from everesthood.usecases.ports.record import Fired


class Clock:
    """So many due schedules, each of a queue of its own; fails from a call on."""

    def __init__(self, due: int, *, fails_at: int = 10**9) -> None:
        self.due, self.fails_at = due, fails_at
        self.calls = self.together = self.most = 0

    async def fire_schedules(self, limit: int) -> Fired:
        self.calls += 1
        self.together += 1
        self.most = max(self.most, self.together)
        found = min(limit, self.due)
        self.due -= found
        ring = tuple((f"uid-{self.due + n}", "r1") for n in range(found))
        fails = self.calls >= self.fails_at
        await asyncio.sleep(0)
        self.together -= 1
        if fails:
            raise Unavailable("PostgreSQL cannot be reached.")
        return Fired(schedules=found, started=found, skipped=1, cancelled=0, ring=ring)

    async def release_held(self, limit: int) -> list:
        return [("uid-held", "r1")]


@pytest.mark.parametrize("due", [0, 1, BATCH - 1, BATCH, 7 * BATCH + 3])
async def test_a_pass_fires_all_that_is_due(due):
    """Whatever the number, every run is started and every queue rung once, also those released."""
    clock, bell = Clock(due), MemoryBell()

    done = await fire_schedules(clock=clock, bell=bell)

    assert (done["runs_started"], done["runs_released"]) == (due, 1)
    assert bell.waiting.total() == len(bell.waiting) == due + 1
    assert clock.most == (LANES if due >= BATCH else 1)


async def test_a_quiet_pass_asks_once():
    """Four times a second nothing is due: that must cost one look."""
    clock = Clock(0)
    await fire_schedules(clock=clock, bell=MemoryBell())

    assert clock.calls == 1


@pytest.mark.parametrize("call", [1, 3])
async def test_a_failing_pass_says_what_the_record_says(call):
    """What was committed before is rung for; the error is the record's own, at the first batch or later."""
    bell = MemoryBell()
    with pytest.raises(Unavailable):
        await fire_schedules(clock=Clock(9 * BATCH, fails_at=call), bell=bell)

    assert bool(bell.waiting) == (call > 1)
