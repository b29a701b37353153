"""Follow a run: its log lines, steps and state as they come, until it is over."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from everesthood.domain.errors import NotFound, Unavailable
from everesthood.domain.runs import FINAL, Run, RunId
from everesthood.usecases.ports.record import RunStore, StoredLine, StoredStep

_PAGE: Final = 500
_LOOK_SECONDS: Final = 2.0
"""A wake-up may be lost; this is the longest that a change then stays unseen."""

Change = StoredLine | StoredStep | Run


async def follow_run(
    runs: RunStore, run: Run, *, after: int = 0, after_step: int = 0
) -> AsyncGenerator[Change, None]:
    """Yield lines and changes of steps with a greater `seq` than these, and each change of the run.

    The last item is the run in its final state; all its lines and steps have come before it.
    """
    changed = asyncio.Event()
    pump = asyncio.ensure_future(_wake(runs, run.id, changed))
    seen = _Seen(after, after_step)
    try:
        while True:
            changed.clear()
            # The state is read first: whatever belongs to a final state is then already written.
            now = await runs.get(run.namespace, run.id)
            if now is None:
                raise NotFound(f"Run {run.id} is no longer kept.")
            async for change in seen.news(runs, now):
                yield change
            if now.state in FINAL:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
    finally:
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump


async def _wake(runs: RunStore, run: RunId, changed: asyncio.Event) -> None:
    with contextlib.suppress(Unavailable):
        async for _ in runs.watch(run):
            changed.set()


class _Seen:
    """What a follower has been told."""

    def __init__(self, after: int, after_step: int) -> None:
        self._after = after
        self._after_step = after_step
        self._run: tuple[object, ...] = ()

    async def news(self, runs: RunStore, run: Run) -> AsyncIterator[Change]:
        while True:
            lines = await runs.log(run.id, after=self._after, limit=_PAGE)
            for line in lines:
                self._after = line.seq
                yield line
            if len(lines) < _PAGE:
                break
        while True:
            steps = await runs.steps(run.id, after=self._after_step, limit=_PAGE)
            for step in steps:
                self._after_step = step.seq
                yield step
            if len(steps) < _PAGE:
                break
        state = (run.state, run.attempt, run.cancel_requested)
        if self._run != state:
            self._run = state
            yield run
