"""Runs one duty: again and again while this process leads it, on standby while another does."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, cast

import structlog

from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.scheduler import metrics
from everesthood.usecases.duties import Duty

_log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 1.0

Lead = Callable[[str], AsyncIterator[bool]]


class DutyRunner:
    """Runs a duty for as long as the process lives; a failing pass never ends it."""

    def __init__(self, duty: Duty, *, lead: Lead, now: Callable[[], float] = time.monotonic) -> None:
        """Ask `lead` for the duty's lock."""
        self.duty = duty
        self._lead = lead
        self._now = now
        self._hinted = asyncio.Event()
        self._leading_since: float | None = None
        self._succeeded_at: float | None = None
        self._stumbled_at = float("-inf")
        self._trouble = ""

    async def run(self) -> None:
        """Stand by, lead, lose the lead, stand by again; until cancelled."""
        while True:
            try:
                await self._follow_lock()
            except Exception as error:  # noqa: BLE001 - whatever it is, the duty goes on
                self._note("cannot ask for the duty's lock", error)
            await asyncio.sleep(_PAUSE_SECONDS)

    def trouble(self) -> str | None:
        """Return what is wrong, None on standby or when the last success is young enough."""
        if self._leading_since is None:
            stumbled_lately = self._now() - self._stumbled_at < self.duty.patience_seconds
            return self._trouble if stumbled_lately else None
        age = self._now() - max(self._leading_since, self._succeeded_at or 0.0)
        if age <= self.duty.patience_seconds:
            return None
        return f"no success for {age:.0f} s ({self._trouble or 'a pass hangs'})"

    async def _follow_lock(self) -> None:
        # The lock is given back when the iterator is closed, not when it is collected.
        lock = cast("Any", self._lead(self.duty.name))
        work: asyncio.Task[None] | None = None
        async with aclosing(lock):
            try:
                async for leads in lock:
                    await _end(work)
                    work = asyncio.create_task(self._work()) if leads else None
            finally:
                await _end(work)

    async def _work(self) -> None:
        hints = asyncio.create_task(self._follow_hints()) if self.duty.hints else None
        self._leading_since = self._now()
        self._trouble = ""
        metrics.LEADING.labels(self.duty.name).set(1)
        _log.info("leads the duty", duty=self.duty.name)
        try:
            while True:
                self._hinted.clear()
                await self._pass()
                await self._rest()
        finally:
            self._leading_since = None
            metrics.LEADING.labels(self.duty.name).set(0)
            await _end(hints)

    async def _pass(self) -> None:
        name, began = self.duty.name, self._now()
        try:
            async with asyncio.timeout(self.duty.timeout_seconds):
                done = await self.duty.work()
        except Exception as error:  # noqa: BLE001 - a failing pass is tried again, others go on
            metrics.PASSES.labels(name, "failed").inc()
            self._note("the pass failed", error)
            return
        metrics.PASSES.labels(name, "succeeded").inc()
        metrics.DURATION.labels(name).observe(self._now() - began)
        metrics.LAST_SUCCESS.labels(name).set_to_current_time()
        self._succeeded_at, self._trouble = self._now(), ""
        self._tell(done)

    def _tell(self, done: Mapping[str, int]) -> None:
        happened = {what: count for what, count in done.items() if count}
        for what, count in happened.items():
            metrics.DONE.labels(self.duty.name, what).inc(count)
        if happened:
            _log.info("did its duty", duty=self.duty.name, **happened)

    async def _rest(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.duty.period_seconds):
                await self._hinted.wait()

    async def _follow_hints(self) -> None:
        assert self.duty.hints is not None  # noqa: S101 - started only where there are some
        while True:
            try:
                async for _ in self.duty.hints():
                    self._hinted.set()
            except Exception as error:  # noqa: BLE001 - without hints the period is enough
                _log.debug("hints ended", duty=self.duty.name, error=str(error))
            await asyncio.sleep(_PAUSE_SECONDS)

    def _note(self, event: str, error: Exception) -> None:
        expected = isinstance(error, EveresthoodError | TimeoutError)
        self._stumbled_at = self._now()
        self._trouble = str(error) or type(error).__name__
        _log.warning(event, duty=self.duty.name, error=self._trouble, exc_info=not expected)


async def _end(task: asyncio.Task[None] | None) -> None:
    # Once may not be enough: `asyncio.wait_for` of Python 3.11, which the Redis client sends with, swallows a
    # cancellation when what it waits for is done already.
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_PAUSE_SECONDS)
