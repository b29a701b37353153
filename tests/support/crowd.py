"""Workers that only pretend to work: thousands in one process, each with its own pod's token.

They say to the gateway what a worker says, when a worker says it (`usecases.claiming`), each on a connection of
its own, and hear their queues in Valkey, each with its own user. Simulated is what a step does: it waits. So
they renew no lease: a step is much shorter than one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
from tests.support.lines import BellLine, HttpLine

from everesthood.apis import wire
from everesthood.apis.wire import Assignment, Finish, Program, QueueLease, StepRecord, WorkReply, WorkRequest
from everesthood.usecases.claiming import Claiming

STEP_SECONDS = 0.1
_AT_ONCE = 64
_TICK_SECONDS = 1.0
_BACK_OFF_SECONDS = 0.2
_OUTPUT = msgspec.Raw(b'{"text":"done"}')
Reply = TypeVar("Reply")
_encode = msgspec.json.Encoder().encode
_reply = msgspec.json.Decoder(WorkReply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A worker's pod and what the kubelet mounts into it."""

    token: str
    revision: str


@dataclass(slots=True)
class Tally:
    """What all workers did."""

    executed: Counter[str] = field(default_factory=Counter)
    """How often each run was given out."""
    lost: int = 0
    """Runs that the gateway no longer took an end of."""
    refusals: Counter[int] = field(default_factory=Counter)
    calls: int = 0
    bells: int = 0


class Crowd:
    """All simulated workers of a test, on the loop that it was started on."""

    def __init__(self, gateway: int, *, slots: int) -> None:
        self.tally = Tally()
        self.slots = slots
        self.gateway = gateway
        self._workers: list[_Worker] = []

    async def join(self, pods: Iterable[Pod]) -> None:
        """Start a worker for each pod and return when all have claimed once."""
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(pod: Pod) -> None:
            async with gate:
                worker = _Worker(self, pod)
                self._workers.append(worker)
                await worker.start()

        await asyncio.gather(*(one(pod) for pod in pods))

    def check(self) -> None:
        """Raise what ended a worker, if anything did."""
        for worker in self._workers:
            worker.check()

    async def leave(self) -> None:
        """End all workers."""
        for worker in self._workers:
            await worker.stop()
        self._workers.clear()


class _Worker:
    def __init__(self, crowd: Crowd, pod: Pod) -> None:
        self._crowd = crowd
        self._tally = crowd.tally
        self._pod = pod
        self._held = 0
        self._done: list[Finish] = []
        self._claiming = Claiming(time.monotonic())
        self._stir = asyncio.Event()
        self._gateway: HttpLine | None = None
        self._queue: BellLine | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Do what a worker does first: ask for the program, claim, ask for the queue, listen."""
        self._gateway = await HttpLine.open(
            self._crowd.gateway, self._pod.token, X_Everesthood_Revision=self._pod.revision
        )
        program = await self._fetch("GET", wire.PROGRAM_PATH, Program)
        assert program.revision == self._pod.revision
        await self._call()
        self._queue = await BellLine.open(await self._fetch("POST", wire.QUEUE_PATH, QueueLease), self._rung)
        self._serving = asyncio.create_task(self._serve())

    async def stop(self) -> None:
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.wait([self._serving])
        for line in (self._gateway, self._queue):
            if line is not None:
                await line.close()

    def check(self) -> None:
        if self._serving is not None and self._serving.done():
            self._serving.result()
            raise AssertionError("a simulated worker ended by itself")
        assert self._queue is None or not self._queue.refusals, self._queue.refusals

    async def _fetch(self, method: str, path: str, kind: type[Reply]) -> Reply:
        assert self._gateway is not None
        while True:
            status, body = await self._gateway.ask(method, path)
            if status == 200:
                return msgspec.json.decode(body, type=kind)
            assert status == 503, (path, status, body)
            self._tally.refusals[status] += 1
            await asyncio.sleep(_BACK_OFF_SECONDS)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            pause = self._pause()
            if pause > 0:
                alarm = loop.call_later(pause, self._stir.set)
                await self._stir.wait()
                alarm.cancel()
                self._stir.clear()
            else:
                self._stir.clear()
                await self._call()

    def _pause(self) -> float:
        if self._done:
            return 0.0
        return self._claiming.pause(time.monotonic()) if self._want() else _TICK_SECONDS

    def _want(self) -> int:
        return self._crowd.slots - self._held

    async def _call(self) -> None:
        assert self._gateway is not None
        done, self._done = self._done, []
        want = self._want()
        settles = want > 0 and self._claiming.mood == "settling"
        request = WorkRequest(want=want, finished=tuple(done), settle_bell=settles)
        self._tally.calls += 1
        status, body = await self._gateway.ask("POST", wire.WORK_PATH, _encode(request))
        if status != 200:
            self._tally.refusals[status] += 1
            self._done = done + self._done
            await asyncio.sleep(_BACK_OFF_SECONDS)
            return
        reply = _reply.decode(body)
        self._tally.lost += len(reply.lost)
        self._claiming.claimed(want, len(reply.assignments), settled=settles, now=time.monotonic())
        for given in reply.assignments:
            self._begin(given)

    def _begin(self, given: Assignment) -> None:
        self._held += 1
        self._tally.executed[given.run] += 1
        asyncio.get_running_loop().call_later(STEP_SECONDS, self._end, given, time.time())

    def _end(self, given: Assignment, began: float) -> None:
        self._held -= 1
        step = StepRecord(
            name="greet", state="succeeded", output=_OUTPUT, started_at=began, finished_at=time.time()
        )
        end = Finish(run=given.run, fence=given.fence, outcome="succeeded", output=_OUTPUT, steps=(step,))
        self._done.append(end)
        self._stir.set()

    def _rung(self) -> None:
        self._tally.bells += 1
        self._claiming.rung()
        self._stir.set()
