"""Write refused permissions to the audit log: beside the call, and never so many that they fill it.

One line for each caller, verb and object in a minute; of one caller, and of all, only so many a minute. The
last line that a caller gets says that more were refused.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Final

from everesthood.domain.errors import EveresthoodError
from everesthood.usecases.ports.record import AuditEntry

ACTION: Final = "access.deny"
MORE: Final = "more than these within a minute"
WINDOW_SECONDS: Final = 60.0
MOST_OF_ONE: Final = 60
MOST: Final = 600
_AGAIN_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0

log = logging.getLogger(__name__)


class AuditRefusals:
    """Takes refusals in at once and writes them by itself."""

    def __init__(self, audit: Callable[[AuditEntry], Awaitable[None]], clock: Callable[[], float]) -> None:
        """Write with `audit`; `clock` counts seconds and never goes back."""
        self._audit = audit
        self._clock = clock
        self._since = float("-inf")
        self._seen: set[tuple[str, str, str]] = set()
        self._of: Counter[str] = Counter()
        self._left_out = 0
        self._waiting: deque[AuditEntry] = deque(maxlen=2 * MOST)
        self._writing: asyncio.Task[None] | None = None

    def __call__(self, *, actor: str, namespace: str, target: str, request_id: str) -> None:
        """Note that somebody was refused something; target is the verb and the object."""
        self._turn()
        key = (actor, namespace, target)
        if key in self._seen:
            return
        if self._of[actor] >= MOST_OF_ONE or len(self._seen) >= MOST:
            self._left_out += 1
            return
        self._seen.add(key)
        self._of[actor] += 1
        if self._of[actor] == MOST_OF_ONE:
            target = MORE
        self._waiting.append(
            AuditEntry(namespace=namespace, actor=actor, action=ACTION, target=target, request_id=request_id)
        )
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="audit-refusals")

    def _turn(self) -> None:
        """Begin a new minute when the last one is over."""
        now = self._clock()
        if now - self._since < WINDOW_SECONDS:
            return
        if self._left_out:
            log.warning("%d refusals are not in the audit log: there were too many", self._left_out)
        self._since, self._left_out = now, 0
        self._seen.clear()
        self._of.clear()

    async def _write(self) -> None:
        while self._waiting:
            try:
                await self._audit(self._waiting[0])
            except EveresthoodError as error:
                log.warning("refusals cannot be audited; trying again: %s", error.message)
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self._waiting.popleft()

    async def close(self) -> None:
        """Write what waits, as far as that is possible soon."""
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=_CLOSE_SECONDS)
            self._writing.cancel()
