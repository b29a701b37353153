"""Group commit: callers that come while a batch is under way share the next one.

An idle caller waits for nobody: its batch starts at once. Callers wait in lanes, one for each organisation,
and a batch takes from all lanes in turn: a flood in one of them does not hold up the others.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from everesthood.domain.errors import Conflict, EveresthoodError, Invalid, Unavailable

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_MOST_WAITING: Final = 20_000

log = structlog.get_logger(__name__)


class Lanes(Generic[_Item]):
    """Waiting items, first come first served within a lane, lanes in turn."""

    def __init__(self) -> None:
        """Start empty."""
        self._lanes: dict[str, deque[_Item]] = {}
        self._turns: deque[str] = deque()
        self._count = 0

    def __len__(self) -> int:
        """Return how many wait in all lanes."""
        return self._count

    def is_full(self, lane: str, most: int) -> bool:
        """Return whether a lane has no place left: all together are full, and it has its part."""
        if self._count < most:
            return False
        return len(self._lanes.get(lane, ())) >= most // (len(self._lanes) + (lane not in self._lanes))

    def add(self, lane: str, item: _Item) -> None:
        """Let an item wait."""
        if lane not in self._lanes:
            self._lanes[lane] = deque()
            self._turns.append(lane)
        self._lanes[lane].append(item)
        self._count += 1

    def take(self, most: int) -> list[_Item]:
        """Take up to so many, one of each lane in turn; the lane after the last one has the next turn."""
        taken: list[_Item] = []
        while self._turns and len(taken) < most:
            lane = self._turns.popleft()
            items = self._lanes[lane]
            part = 1 if self._turns else min(len(items), most - len(taken))
            taken += [items.popleft() for _ in range(part)]
            if items:
                self._turns.append(lane)
            else:
                del self._lanes[lane]
        self._count -= len(taken)
        return taken


class Batches(Generic[_Item, _Answer]):
    """Runs `flush` with all waiting items; one item at a time when a bad one spoils a batch."""

    def __init__(
        self,
        flush: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer | EveresthoodError]]],
        *,
        flushers: int = 2,
        limit: int = 500,
        lane: Callable[[_Item], str] = lambda _: "",
    ) -> None:
        """Keep the limits: batches at the same time, items in one; `lane` says in which an item waits."""
        self._flush = flush
        self._limit = limit
        self._flushers = flushers
        self._lane = lane
        self._waiting: Lanes[tuple[_Item, asyncio.Future[_Answer]]] = Lanes()
        self._tasks: set[asyncio.Task[None]] = set()
        self._active = 0

    async def submit(self, item: _Item) -> _Answer:
        """Return the item's answer once its batch is committed."""
        lane = self._lane(item)
        if self._waiting.is_full(lane, _MOST_WAITING):
            raise Unavailable("Too many requests wait for PostgreSQL.", retry_after_seconds=1)
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.add(lane, (item, future))
        if self._active < self._flushers:
            self._active += 1
            task = asyncio.create_task(self._drain(), name="flusher")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await future

    async def close(self) -> None:
        """Wait until nothing is under way."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._settle(self._waiting.take(self._limit))
        finally:
            self._active -= 1  # in the same breath as the last look, so that no item is left behind

    async def _settle(self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]]) -> None:
        try:
            answers = await self._flush([item for item, _ in batch])
        except (Invalid, Conflict) as error:
            await self._one_by_one(batch, error)
        except EveresthoodError as error:
            self._fail(batch, error)
        except Exception:
            log.exception("a batch failed unexpectedly")
            self._fail(batch, Unavailable("The record failed unexpectedly."))
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                _answer(future, answer)

    async def _one_by_one(
        self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]], error: EveresthoodError
    ) -> None:
        if len(batch) == 1:
            self._fail(batch, error)
            return
        for one in batch:
            await self._settle([one])

    def _fail(self, batch: Sequence[tuple[_Item, asyncio.Future[_Answer]]], error: EveresthoodError) -> None:
        for _, future in batch:
            _answer(future, error)


def _answer(future: asyncio.Future[_Answer], answer: _Answer | EveresthoodError) -> None:
    if future.done():  # the caller went away
        return
    if isinstance(answer, EveresthoodError):
        future.set_exception(answer)
    else:
        future.set_result(answer)
