"""What the scheduler promises of its duties, whatever they do."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.scheduler.duties import DutyRunner
from everesthood.entrypoints.scheduler.main import serve
from everesthood.usecases.duties import Duty

pytestmark = pytest.mark.looptime


class Locks:
    """Advisory locks, whose loss a test can bring about."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bool | Exception] = asyncio.Queue()
        self.closed = 0

    async def lead(self, duty):
        try:
            while True:
                said = await self.queue.get()
                if isinstance(said, Exception):
                    raise said
                yield said
        finally:
            self.closed += 1


async def always(duty):
    yield True
    await asyncio.Event().wait()


async def never(duty):
    await asyncio.Event().wait()
    yield True


def duty(work, *, name="duty", period=1.0, hints=None) -> Duty:
    return Duty(name=name, period_seconds=period, work=work, hints=hints)


class Counting:
    """Work that counts its passes."""

    def __init__(self, error: Exception | None = None) -> None:
        self.passes = 0
        self.error = error

    async def __call__(self):
        self.passes += 1
        if self.error is not None:
            raise self.error
        return {"things": 1}


@asynccontextmanager
async def running(*runners):
    tasks = [asyncio.create_task(runner.run()) for runner in runners]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def runner(given: Duty, lead=always) -> DutyRunner:
    return DutyRunner(given, lead=lead, now=lambda: asyncio.get_running_loop().time())


async def test_a_leader_does_its_duty_every_period():
    """A duty of one second is done about ten times in ten seconds."""
    work = Counting()
    async with running(runner(duty(work))):
        await asyncio.sleep(9.5)

    assert work.passes == 10


async def test_who_does_not_lead_does_nothing_and_is_well():
    """A process on standby leaves the duty alone and does not count as unwell."""
    work = Counting()
    one = runner(duty(work), never)
    async with running(one):
        await asyncio.sleep(100)
        assert one.trouble() is None

    assert work.passes == 0


@pytest.mark.parametrize("error", [Unavailable("Redis is away."), ValueError("a defect"), TimeoutError()])
async def test_a_failing_duty_goes_on_and_stops_no_other(error):
    """Whatever a pass dies of, it is tried again, and every other duty is done meanwhile."""
    bad, good = Counting(error), Counting()
    failing = runner(duty(bad, name="bad"))
    async with running(failing, runner(duty(good, name="good"))):
        await asyncio.sleep(20.5)
        assert "no success for" in (failing.trouble() or "")

    assert bad.passes == good.passes == 21


async def test_a_duty_ends_although_its_work_swallows_a_cancellation():
    """A process told to stop stops, whatever a library made of the first cancellation."""
    swallowed = asyncio.Event()

    async def deaf():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        swallowed.set()
        return {}

    async with running(runner(duty(deaf))):
        await asyncio.sleep(1)

    assert swallowed.is_set()


async def test_a_hanging_pass_is_given_up():
    """A pass that hangs does not hold its duty for ever."""
    began = 0

    async def hang():
        nonlocal began
        began += 1
        await asyncio.Event().wait()

    one = runner(duty(hang))
    async with running(one):
        await asyncio.sleep(29)
        assert "a pass hangs" in (one.trouble() or "")
        await asyncio.sleep(33)

    assert began == 3


async def test_a_lost_lead_stops_the_work_at_once_and_a_new_lead_starts_it():
    """Two processes never lead for longer than it takes to notice."""
    locks, work = Locks(), Counting()
    async with running(runner(duty(work), locks.lead)):
        locks.queue.put_nowait(True)
        await asyncio.sleep(4.5)
        locks.queue.put_nowait(False)
        await asyncio.sleep(50)
        assert work.passes == 5
        locks.queue.put_nowait(True)
        await asyncio.sleep(0.5)
        assert work.passes == 6

    assert locks.closed == 1, "the lock was not given back"


async def test_a_record_that_cannot_be_asked_for_the_lock_is_asked_again():
    """An outage of the record ends no duty; on standby it shows for a while, then is forgotten."""
    locks, work = Locks(), Counting()
    one = runner(duty(work), locks.lead)
    locks.queue.put_nowait(Unavailable("PostgreSQL cannot be reached."))
    async with running(one):
        await asyncio.sleep(3)
        assert one.trouble() == "PostgreSQL cannot be reached."
        await asyncio.sleep(20)
        assert one.trouble() is None
        locks.queue.put_nowait(True)
        await asyncio.sleep(0.1)
        assert one.trouble() is None

    assert work.passes == 1


async def test_a_hint_is_followed_at_once():
    """A new instance's queue need not wait for the next period; a hint that breaks costs nothing."""
    told = asyncio.Event()

    async def hints():
        await told.wait()
        told.clear()
        yield
        raise Unavailable("the listener is away")

    work = Counting()
    async with running(runner(duty(work, period=60.0, hints=hints))):
        await asyncio.sleep(1)
        assert work.passes == 1
        told.set()
        await asyncio.sleep(1)
        assert work.passes == 2
        told.set()
        await asyncio.sleep(3)
        assert work.passes == 3


@pytest.mark.looptime(False)
async def test_a_scheduler_waits_for_its_record_and_can_be_stopped_meanwhile():
    """Started before PostgreSQL, the scheduler waits for it, and ends when told to."""
    stop = asyncio.Event()

    async def check():
        stop.set()
        raise Unavailable("PostgreSQL cannot be reached.")

    await serve((), lead=never, check_schema=check, metrics_port=0, stop=stop)
