"""The worker's ear: it works on through every failure of the queue."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import pytest

from everesthood.apis.wire import QueueLease
from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.worker import line as module
from everesthood.entrypoints.worker.line import QueueLine


def lease(password: str = "one") -> QueueLease:
    return QueueLease(host="h", port=1, user="u", password=password, prefix="p:", queue="q")


class FakeConsumer:
    """A consumer that a test holds in its hands."""

    def __init__(self, given, on_bell, on_line) -> None:
        self.lease = given
        self.on_bell = on_bell
        self.on_line = on_line
        self.last_turn = time.monotonic()
        self.dies_of: Exception | None = None
        self._end = threading.Event()

    def run(self) -> None:
        self._end.wait(10)
        if self.dies_of is not None:
            raise self.dies_of

    def stop(self) -> None:
        self._end.set()

    def die(self, error: Exception) -> None:
        self.dies_of = error
        self._end.set()


class Line:
    """A line with fake consumers, and how often it woke the worker."""

    def __init__(self) -> None:
        self.leases: list[QueueLease | Exception] = [lease()]
        self.consumers: list[FakeConsumer] = []
        self.wakes = 0
        self.line = QueueLine(lease=self._lease, consumer=self._open, wake=self._wake)

    async def _lease(self) -> QueueLease:
        given = self.leases.pop(0) if len(self.leases) > 1 else self.leases[0]
        if isinstance(given, Exception):
            raise given
        return given

    def _open(self, *given) -> FakeConsumer:
        self.consumers.append(FakeConsumer(*given))
        return self.consumers[-1]

    def _wake(self) -> None:
        self.wakes += 1

    async def until(self, holds) -> None:
        async with asyncio.timeout(5):
            while not holds():
                await asyncio.sleep(0.005)

    async def consumer(self, number: int) -> FakeConsumer:
        await self.until(lambda: len(self.consumers) >= number)
        return self.consumers[number - 1]


@asynccontextmanager
async def kept():
    it = Line()
    task = asyncio.create_task(it.line.keep())
    try:
        yield it
    finally:
        it.line.close()
        async with asyncio.timeout(5):
            await task


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "DEAF_WAKE_SECONDS", 0.05)
    monkeypatch.setattr(module, "_RENEW_SECONDS", 0.05)
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.01)


async def test_a_bell_wakes_the_worker():
    """Each bell that is heard makes the worker look."""
    async with kept() as it:
        consumer = await it.consumer(1)
        consumer.on_line(True)
        await it.until(lambda: it.wakes)
        wakes = it.wakes
        consumer.on_bell()

        assert it.wakes == wakes + 1


async def test_a_deaf_worker_looks_by_itself_and_a_hearing_one_does_not():
    """While the broker is away the worker asks the gateway every few seconds, and only then."""
    async with kept() as it:
        consumer = await it.consumer(1)
        await it.until(lambda: it.wakes >= 3)

        consumer.on_line(True)
        await asyncio.sleep(0.1)
        wakes = it.wakes
        await asyncio.sleep(0.3)
        assert it.wakes == wakes

        consumer.on_line(False)
        await it.until(lambda: it.wakes >= wakes + 3)


async def test_coming_back_is_a_reason_to_look():
    """Bells that rang while the line was down are lost, so the worker looks when it is up again."""
    async with kept() as it:
        consumer = await it.consumer(1)
        consumer.on_line(True)
        await it.until(lambda: it.line._up)

        assert it.wakes >= 1


async def test_a_dead_consumer_is_replaced():
    """Whatever Celery dies of, it is started again."""
    async with kept() as it:
        (await it.consumer(1)).die(AttributeError("'NoneType' object has no attribute 'hostname'"))
        (await it.consumer(2)).die(RuntimeError("again"))

        assert (await it.consumer(3)).lease == lease()


async def test_a_changed_password_is_taken_over_while_deaf():
    """After the bell key is changed, workers come back without a restart."""
    async with kept() as it:
        await it.consumer(1)
        it.leases = [lease("two")]

        assert (await it.consumer(2)).lease == lease("two")


async def test_the_same_password_restarts_nothing():
    """While Redis is down for a while, the consumer that waits for it is left in peace."""
    async with kept() as it:
        await it.consumer(1)
        await asyncio.sleep(0.3)

        assert len(it.consumers) == 1


async def test_no_lease_yet_is_asked_for_again():
    """A queue that is not ready, or a gateway that is away, is asked again."""
    async with kept() as it:
        it.leases = [Unavailable("not made yet"), Unavailable("not made yet"), lease("late")]
        await it.until(lambda: it.consumers)


async def test_a_line_that_is_up_but_stands_still_is_said_to_be_stuck():
    """Only a restart helps a consumer whose loop hangs: then, and only then, liveness fails."""
    async with kept() as it:
        consumer = await it.consumer(1)
        consumer.last_turn = time.monotonic() - 100
        assert it.line.stuck() is None, "a line that is down waits for Redis, not for a restart"

        consumer.on_line(True)
        await it.until(lambda: it.line.stuck() is not None)
        consumer.last_turn = time.monotonic()
        assert it.line.stuck() is None
