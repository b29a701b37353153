"""The work queue: every key at most once in line, at most once in work, later after a failure."""

import asyncio
import random
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Final, Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram

K = TypeVar("K", bound=Hashable)

COALESCE_SECONDS: Final = 0.2
_FIRST_RETRY_SECONDS: Final = 0.5
_LONGEST_RETRY_SECONDS: Final = 300.0
_LONGEST_NEWS_SECONDS: Final = 3.2
_LONGEST_EDIT_SECONDS: Final = 12.8
_COOL_SECONDS: Final = 5.0
_LATE_PLACES: Final = 1000
_HOT_KEYS: Final = 1000
_JITTER: Final = 0.2
_MOST_DOUBLINGS: Final = 16

DEPTH: Final = Gauge("everesthood_workqueue_depth", "Keys in line.")
ADDS: Final = Counter("everesthood_workqueue_adds", "Keys that were put in line.")
RETRIES: Final = Counter("everesthood_workqueue_retries", "Keys that were put back after a failure.")
WAITED: Final = Histogram("everesthood_workqueue_wait_seconds", "Time that keys stood in line.")
WORKED: Final = Histogram("everesthood_workqueue_work_seconds", "Time that keys were in work.")
RUNNING: Final = Gauge("everesthood_workqueue_longest_running_seconds", "Age of the oldest work under way.")


@dataclass(frozen=True, slots=True, order=True)
class _Place(Generic[K]):
    number: int
    key: K = field(compare=False)


class WorkQueue(Generic[K]):
    """Keys to be worked on; one loop, many takers."""

    def __init__(self, rng: Callable[[], float] = random.random) -> None:
        """Start empty; `rng` yields numbers from 0 to 1 for the jitter."""
        self._rng = rng
        self._line: asyncio.PriorityQueue[_Place[K]] = asyncio.PriorityQueue()
        self._places = count()
        self._late: set[K] = set()
        self._since: dict[K, float] = {}
        """Keys that wait in line or, while in work, for their next turn, and since when."""
        self._active: dict[K, float] = {}
        self._timers: dict[K, tuple[float, asyncio.TimerHandle]] = {}
        self._failures: dict[K, int] = {}
        self._heat: dict[K, tuple[int, float]] = {}
        """Passes since a key was last quiet, and when something last happened to it."""
        self._hot_limit = _HOT_KEYS
        self._finished = asyncio.Event()
        RUNNING.set_function(self.longest_running_seconds)
        DEPTH.set_function(self._line.qsize)

    def __len__(self) -> int:
        """Return how many keys stand in line."""
        return self._line.qsize()

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is in line, in work or about to be."""
        return not (self._line.qsize() or self._active or self._timers)

    def add(self, key: K, *, late: bool = False) -> None:
        """Put the key in line, unless it stands there; one in work comes again afterwards.

        A late one lets those pass that come soon after it, but not for ever.
        """
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        if key in self._since:
            return
        self._since[key] = time.monotonic()
        ADDS.inc()
        if late:
            self._late.add(key)
        if key not in self._active:
            self._enter(key)

    def add_after(self, key: K, seconds: float, *, late: bool = False) -> None:
        """Put the key in line after a while; of several times the earliest counts."""
        if key in self._since:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer[0] <= at:
                return
            timer[1].cancel()
        self._timers[key] = (at, loop.call_at(at, self._ring, key, late))

    def add_soon(self, key: K, *, edited: bool = False) -> None:
        """Put the key in line once what happens to it has calmed down.

        The first changes are taken up quickly; a key that keeps changing is looked at ever less
        often. Edits of the object itself slow down most: a storm of them costs a handful of passes.
        """
        now = asyncio.get_running_loop().time()
        runs, heard_at = self._heat.get(key, (0, now))
        if now - heard_at > _COOL_SECONDS:
            runs = 0
        self._heat[key] = (runs, now)
        if edited:
            wait = min(COALESCE_SECONDS * 4.0 ** min(runs, _MOST_DOUBLINGS), _LONGEST_EDIT_SECONDS)
        else:
            wait = min(
                COALESCE_SECONDS * 2.0 ** min(max(0, runs - 1), _MOST_DOUBLINGS), _LONGEST_NEWS_SECONDS
            )
        self.add_after(key, wait)

    def retry(self, key: K, at_least: float = 0.0) -> None:
        """Put the key in line again after a failure: later each time."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        RETRIES.inc()
        wait = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures, _MOST_DOUBLINGS))
        self.add_after(key, max(at_least, wait * (1 - _JITTER + 2 * _JITTER * self._rng())))

    def forget(self, key: K) -> None:
        """Forget the failures of a key that succeeded."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """Wait for a key and take it into work; `done` must follow."""
        key = (await self._line.get()).key
        now = time.monotonic()
        WAITED.observe(now - self._since.pop(key))
        self._active[key] = now
        return key

    def done(self, key: K) -> None:
        """End the work on a key."""
        WORKED.observe(time.monotonic() - self._active.pop(key))
        self._finished.set()
        self._warm(key)
        if key in self._since:
            self._enter(key)

    async def drain(self, seconds: float) -> None:
        """Wait until no work is under way, at most for a while."""
        end = time.monotonic() + seconds
        while self._active and time.monotonic() < end:
            self._finished.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, end - time.monotonic())):
                    await self._finished.wait()

    def longest_running_seconds(self) -> float:
        """Return for how long the oldest work has been under way."""
        return time.monotonic() - min(self._active.values(), default=time.monotonic())

    def _ring(self, key: K, late: bool) -> None:
        self._timers.pop(key, None)
        self.add(key, late=late)

    def _enter(self, key: K) -> None:
        behind = _LATE_PLACES if key in self._late else 0
        self._late.discard(key)
        self._line.put_nowait(_Place(next(self._places) + behind, key))

    def _warm(self, key: K) -> None:
        """Count a pass of a key that things happen to; forget keys that have been quiet."""
        now = asyncio.get_running_loop().time()
        if key in self._heat:
            runs, heard_at = self._heat[key]
            self._heat[key] = (runs + 1, heard_at)
        if len(self._heat) > self._hot_limit:
            self._heat = {k: heat for k, heat in self._heat.items() if now - heat[1] <= _COOL_SECONDS}
            self._hot_limit = max(_HOT_KEYS, 2 * len(self._heat))
