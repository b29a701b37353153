"""Keeps the line to the queue: listens in a thread, and looks for work by itself while deaf.

The broker may be down, restarted, emptied or moved, or may not know us yet; work goes on without it,
only later by up to `DEAF_WAKE_SECONDS`.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

import structlog
from prometheus_client import Counter, Gauge

from everesthood.apis.wire import QueueLease
from everesthood.domain.errors import EveresthoodError
from everesthood.entrypoints.worker.memory import give_back

_log = structlog.get_logger(__name__)
DEAF_WAKE_SECONDS = 5.0
_RENEW_SECONDS = 60.0
_PAUSE_SECONDS = 2.0
_STUCK_SECONDS = 60.0

_UP = Gauge("everesthood_worker_queue_connected", "1 while the worker hears its queue.")
_BELLS = Counter("everesthood_worker_bells", "Bells heard.")


class Consumer(Protocol):
    """Listens to one queue."""

    last_turn: float
    """When its loop last went round, by the monotonic clock."""

    def run(self) -> None:
        """Listen, blocking, until stopped."""
        ...

    def stop(self) -> None:
        """Make `run` return soon."""
        ...


OpenConsumer = Callable[[QueueLease, Callable[[], None], Callable[[bool], None]], Consumer]
"""Takes the lease, what to do at a bell, and whom to tell that the line is up or down."""


class QueueLine:
    """The worker's ear. Everything but the consumer itself happens on the event loop."""

    def __init__(
        self,
        *,
        lease: Callable[[], Awaitable[QueueLease]],
        consumer: OpenConsumer,
        wake: Callable[[], None],
    ) -> None:
        """Get leases from the gateway, listen with `consumer`, call `wake` (from any thread) for work."""
        self._lease = lease
        self._open = consumer
        self._wake = wake
        self._consumer: Consumer | None = None
        self._up = False
        self._closed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    async def keep(self) -> None:
        """Listen until closed, through every failure of the broker."""
        waking = asyncio.create_task(self._wake_while_deaf())
        try:
            while not self._closed.is_set():
                await self._listen_once()
                await self._pause(_PAUSE_SECONDS)
        finally:
            waking.cancel()

    def close(self) -> None:
        """Stop listening; `keep` returns within about a second."""
        self._closed.set()
        if self._consumer is not None:
            self._consumer.stop()

    def stuck(self) -> str | None:
        """Return what is wrong with a line that is up but does not move; only a restart helps."""
        if not self._up or self._consumer is None:
            return None
        still = time.monotonic() - self._consumer.last_turn
        return f"the queue's loop has not turned for {still:.0f} s" if still > _STUCK_SECONDS else None

    async def _listen_once(self) -> None:
        lease = await self._ask_for_lease()
        if lease is None:
            return
        ended = asyncio.Event()
        # A daemon: a consumer that hangs in a broken socket must not keep the process from ending.
        threading.Thread(target=self._listen, args=(lease, ended), name="queue", daemon=True).start()
        renewal = asyncio.create_task(self._renew_while_deaf(lease))
        try:
            await ended.wait()
        finally:
            renewal.cancel()

    def _listen(self, lease: QueueLease, ended: asyncio.Event) -> None:
        """In the thread: import Celery only here, after the first claim is on its way."""
        try:
            self._consumer = self._open(lease, self._heard, self._set_line)
            give_back()
            if not self._closed.is_set():
                self._consumer.run()
        except Exception:  # noqa: BLE001 - whatever Celery dies of, it is started again
            _log.exception("the queue's consumer died")
        self._on_loop(ended.set)
        self._set_line(False)

    def _heard(self) -> None:
        _BELLS.inc()
        self._wake()

    def _set_line(self, up: bool) -> None:
        self._on_loop(self._line_changed, up)

    def _line_changed(self, up: bool) -> None:
        if up == self._up:
            return
        self._up = up
        _UP.set(up)
        _log.info("hears its queue" if up else "does not hear its queue", wakes_itself=not up)
        # Bells rung while deaf are lost, so look once in either case.
        self._wake()

    def _on_loop(self, call: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the process ends
            self._loop.call_soon_threadsafe(call, *args)

    async def _wake_while_deaf(self) -> None:
        while True:
            await asyncio.sleep(DEAF_WAKE_SECONDS)
            if not self._up:
                self._wake()

    async def _renew_while_deaf(self, lease: QueueLease) -> None:
        """Start over when the password or the address has changed meanwhile."""
        while True:
            await asyncio.sleep(_RENEW_SECONDS)
            if self._up or self._consumer is None:
                continue
            if await self._ask_for_lease() not in {None, lease}:
                _log.info("the queue's address or password changed")
                self._consumer.stop()
                return

    async def _ask_for_lease(self) -> QueueLease | None:
        try:
            return await self._lease()
        except EveresthoodError as error:
            _log.warning("cannot ask the gateway for the queue", error=error.message)
            return None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()
