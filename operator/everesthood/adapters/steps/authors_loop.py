"""The loop of the author's async code: a thread of its own, so that what blocks it holds up no lease.

One loop for all, because libraries bind clients that a module keeps to the loop that first used them.
A loop that does not answer is left behind: what is called later gets a new one.
"""

import asyncio
import contextlib
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

import structlog

from everesthood.domain.runs import LONGEST_GRACE_SECONDS
from everesthood.usecases.held_runs import Stop

T = TypeVar("T")

STALLED_SECONDS: Final = 5.0
"""A loop that has not gone round for so long is left behind."""
TIDY_SECONDS: Final = 1.0
"""How long code that is cut off may tidy up before nobody waits for it any more."""
_BEAT_SECONDS: Final = 0.5

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _End(Generic[T]):
    """What a coroutine came to: out of a task, a SystemExit would end the loop."""

    value: T | None = None
    error: BaseException | None = None

    def result(self) -> T:
        if self.error is not None:
            raise self.error
        return cast("T", self.value)


async def _end_of(coroutine: Awaitable[T]) -> _End[T]:
    try:
        return _End(await coroutine)
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        return _End(error=error)


class AuthorsLoop:
    """Runs coroutines of the author's code; used from the worker's loop."""

    def __init__(self) -> None:
        """Start nothing before the first call: most templates have no async code."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turned_at = 0.0

    async def run(self, call: Callable[..., Awaitable[T]], *args: object) -> T:
        """Return what the call returns, made and awaited there; a cancellation is passed on."""
        home, loop, inside = asyncio.get_running_loop(), self._answering(), contextvars.copy_context()
        end: asyncio.Future[_End[T]] = home.create_future()
        tasks: list[asyncio.Task[_End[T]]] = []

        async def made() -> T:
            return await call(*args)

        def begin() -> None:
            tasks.append(loop.create_task(_end_of(made()), context=inside))
            tasks[0].add_done_callback(tell)

        def tell(task: asyncio.Task[_End[T]]) -> None:
            came_to = _End[T](error=asyncio.CancelledError()) if task.cancelled() else task.result()
            with contextlib.suppress(RuntimeError):  # the worker is gone
                home.call_soon_threadsafe(end.set_result, came_to)

        loop.call_soon_threadsafe(begin)
        try:
            return (await asyncio.shield(end)).result()
        except asyncio.CancelledError as cancelled:
            by_person = Stop.CANCEL.value in cancelled.args  # then the record says when the grace is over
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - there is none yet
            await asyncio.wait([end], timeout=LONGEST_GRACE_SECONDS if by_person else TIDY_SECONDS)
            raise

    def block_on(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what the coroutine returns; for threads that are no loop's."""
        return asyncio.run_coroutine_threadsafe(_end_of(coroutine), self._answering()).result().result()

    def _answering(self) -> asyncio.AbstractEventLoop:
        if self._loop is not None and time.monotonic() - self._turned_at < STALLED_SECONDS:
            return self._loop
        if self._loop is not None:
            _log.warning(
                "an async function of the agent blocks its loop; make it a plain function, or await in it",
                seconds=round(time.monotonic() - self._turned_at, 1),
            )
        self._loop, self._turned_at = asyncio.new_event_loop(), time.monotonic()
        threading.Thread(target=self._serve, args=[self._loop], name="code-async", daemon=True).start()
        return self._loop

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)

        def beat() -> None:
            if self._loop is loop:
                self._turned_at = time.monotonic()
            loop.call_later(_BEAT_SECONDS, beat)

        loop.call_soon(beat)
        loop.run_forever()
