"""Group commit: callers that come while a batch is under way share the next one.

An idle caller waits for nobody: its batch starts at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from everesthood.domain.errors import Conflict, EveresthoodError, Invalid, Unavailable

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_MOST_WAITING: Final = 20_000

log = structlog.get_logger(__name__)


class Batches(Generic[_Item, _Answer]):
    """Runs `flush` with all waiting items; one item at a time when a bad one spoils a batch."""

    def __init__(
        self,
        flush: Callable[[Sequence[_Item]], Awaitable[Sequence[_Answer | EveresthoodError]]],
        *,
        flushers: int = 2,
        limit: int = 500,
    ) -> None:
        """Keep the limits: batches at the same time, items in one."""
        self._flush = flush
        self._limit = limit
        self._flushers = flushers
        self._waiting: list[tuple[_Item, asyncio.Future[_Answer]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._active = 0

    async def submit(self, item: _Item) -> _Answer:
        """Return the item's answer once its batch is committed."""
        if len(self._waiting) >= _MOST_WAITING:
            raise Unavailable("Too many requests wait for PostgreSQL.", retry_after_seconds=1)
        future: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
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
                batch, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
                await self._settle(batch)
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
