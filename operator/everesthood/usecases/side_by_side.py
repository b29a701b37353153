"""Steps under way side by side, each in a task of its own, and how they come to an end together."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

from everesthood.usecases.execute_step import StepEnd
from everesthood.usecases.ports.worker import Course

K = TypeVar("K")


class SideBySide(Generic[K]):
    """Tasks by what they are about."""

    def __init__(self, course: Course, name: Callable[[K], str]) -> None:
        """Start nothing yet; `name` is what a key's checkpoint is called."""
        self._course = course
        self._name = name
        self._tasks: dict[asyncio.Task[StepEnd], K] = {}

    def __bool__(self) -> bool:
        """Return whether anything is under way."""
        return bool(self._tasks)

    def __iter__(self) -> Iterator[K]:
        """Iterate over what is under way."""
        return iter(self._tasks.values())

    def start(self, key: K, doing: Coroutine[Any, Any, StepEnd]) -> None:
        """Do this beside the others."""
        self._tasks[asyncio.create_task(doing)] = key

    async def first(
        self, *, or_when: "asyncio.Future[None] | None" = None, seconds: float | None = None
    ) -> list[tuple[K, StepEnd]]:
        """Wait until the first ends, `or_when` is done or time is up; return what ended."""
        waited: set[asyncio.Future[Any]] = {*self._tasks}
        if or_when is not None:
            waited.add(or_when)
        done, _ = await asyncio.wait(waited, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return self._taken(done)

    async def wind_down(self) -> list[tuple[K, StepEnd]]:
        """Let what must not be broken off come to an end, drop the rest; return what ended."""
        self._course.close()
        for task, key in self._tasks.items():
            if not self._course.holds_up(self._name(key)):
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        return self._taken({*self._tasks})

    async def abandon(self, why: object = None) -> list[tuple[K, StepEnd]]:
        """Break off everything; return what ended in that moment all the same."""
        for task in self._tasks:
            task.cancel(why)
        if self._tasks:
            await asyncio.wait(self._tasks)
        broken = [task for task in self._tasks if task.cancelled() or task.exception() is not None]
        for task in broken:
            del self._tasks[task]
        return self._taken({*self._tasks})

    def _taken(self, done: set[asyncio.Future[Any]]) -> list[tuple[K, StepEnd]]:
        ended = [task for task in self._tasks if task in done]
        found = [(self._tasks.pop(task), task) for task in ended]
        return [(key, task.result()) for key, task in found if not task.cancelled()]
