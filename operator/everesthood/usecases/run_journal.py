"""What one attempt writes, on its way to the worker's outbox."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from everesthood.apis.wire import LogLine, StepRecord
from everesthood.usecases.outbox import Note, Outbox
from everesthood.usecases.ports.worker import Level

MAX_LINES: Final = 5000
"""Log lines of one attempt; a loop gone wild must not fill the record."""
MAX_LINE: Final = 4000


class RunJournal:
    """The port `Journal` of one attempt."""

    def __init__(self, run: str, fence: int, outbox: Outbox, noted: Callable[[], None]) -> None:
        """Write for this attempt; `noted` is called after each addition."""
        self._run = run
        self._fence = fence
        self._outbox = outbox
        self._noted = noted
        self._lines = 0

    def note(self, record: StepRecord) -> None:
        """Checkpoint with the next call to the gateway."""
        self._outbox.note(self._run, self._fence, Note(record=record))
        self._noted()

    async def commit(self, record: StepRecord) -> None:
        """Checkpoint, and return only once it is durable."""
        durable = asyncio.get_running_loop().create_future()
        self._outbox.note(self._run, self._fence, Note(record=record, durable=durable))
        self._noted()
        await durable

    def log(self, level: Level, message: str, step: str = "") -> None:
        """Add a line to the run's log."""
        self._lines += 1
        if self._lines > MAX_LINES:
            return
        if self._lines == MAX_LINES:
            level, message = "warning", f"further lines are dropped: {MAX_LINES} is the most for one attempt"
        line = LogLine(
            run=self._run,
            fence=self._fence,
            at=time.time(),
            level=level,
            message=message[:MAX_LINE],
            step=step,
        )
        self._outbox.log(line)
        self._noted()
