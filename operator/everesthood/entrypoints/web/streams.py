"""A run's log as server-sent events, and how many people may follow at once.

Each event's id says how far it leads: the `seq` of the last line and of the last change of a step.
A client that comes back with it as Last-Event-ID gets what it missed, and the state as it is now.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Unavailable
from everesthood.domain.runs import Run
from everesthood.entrypoints.web import schemas
from everesthood.entrypoints.web.problems import of_error
from everesthood.usecases.follow_run import Change
from everesthood.usecases.ports.record import StoredLine, StoredStep

MEDIA_TYPE: Final = "text/event-stream"
HEARTBEAT_SECONDS: Final = 15.0
_SEPARATORS: Final = tuple((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\x85\u2028\u2029")
"""What JSON lets stand and many clients take for the end of a line."""
_HEARTBEAT: Final = b": still here\n\n"


@dataclass(slots=True)
class Streams:
    """The open streams of this process."""

    most: int = 500
    most_per_user: int = 50
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the process stops: every stream ends, and its client comes back elsewhere."""
    _open: Counter[str] = field(default_factory=Counter)

    @contextlib.contextmanager
    def seat(self, user: str) -> Iterator[None]:
        """Hold one of the places."""
        if self._open.total() >= self.most or self._open[user] >= self.most_per_user:
            raise Unavailable("Too many logs are followed at once.", Reason.TOO_BUSY, retry_after_seconds=10)
        self._open[user] += 1
        try:
            yield
        finally:
            self._open[user] -= 1
            self._open += Counter()  # forgets users at zero

    async def events(
        self,
        changes: AsyncIterator[Change],
        *,
        place: tuple[int, int] = (0, 0),
        check: Callable[[], Awaitable[object]],
        request_id: str,
    ) -> AsyncIterator[bytes]:
        """Yield the changes behind a place as events, and a comment whenever nothing came for a while.

        `check` is asked with each of those comments, so that a lost permission ends the stream.
        """
        line, step = place
        try:
            async for change in self._until_closing(changes):
                if change is None:
                    await check()
                    yield _HEARTBEAT
                    continue
                if isinstance(change, StoredLine):
                    line = change.seq
                elif isinstance(change, StoredStep):
                    step = change.seq
                yield _event(change, f"{line}-{step}")
        except EveresthoodError as error:
            yield _frame("error", of_error(request_id, error)[1], f"{line}-{step}")

    async def _until_closing(self, changes: AsyncIterator[Change]) -> AsyncIterator[Change | None]:
        """Yield each change; None for each `heartbeat_seconds`, however many changes come in between."""
        loop = asyncio.get_running_loop()
        closing = asyncio.ensure_future(self.closing.wait())
        coming: asyncio.Future[Change] | None = None
        beat_at = loop.time() + self.heartbeat_seconds
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(changes))
                left = max(0.0, beat_at - loop.time())
                either: set[asyncio.Future[Any]] = {coming, closing}
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if closing.done():
                    return
                if loop.time() >= beat_at:
                    beat_at = loop.time() + self.heartbeat_seconds
                    yield None
                if coming.done():
                    change = _result(coming)
                    coming = None
                    if change is None:
                        return
                    yield change
        finally:
            await _stop(closing, coming)


def _result(done: asyncio.Future[Change]) -> Change | None:
    try:
        return done.result()
    except StopAsyncIteration:
        return None


async def _stop(*tasks: asyncio.Future[Any] | None) -> None:
    for task in tasks:
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, EveresthoodError):
                await task


def _event(change: Change, place: str) -> bytes:
    match change:
        case StoredLine():
            return _frame("line", schemas.line_view(change), place)
        case StoredStep():
            return _frame("step", schemas.step_view(change), place)
        case Run():
            return _frame("run", schemas.view(change), place)


def _frame(event: str, data: object, place: str) -> bytes:
    # A spliced value may be written over several lines, which an event's field may not.
    text = msgspec.json.format(msgspec.json.encode(data), indent=-1)
    for separator, escape in _SEPARATORS:
        text = text.replace(separator, escape)
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (place.encode(), event.encode(), text)
