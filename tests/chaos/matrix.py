"""Takes all cases through, several stacks side by side: most of a case is waiting for a lease."""

import asyncio
import os
import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from tests.chaos.cases import Case, Verdict
from tests.chaos.stack import running_stack

STACKS = int(os.environ.get("EVERESTHOOD_CHAOS_STACKS", "4"))

Done = Callable[[Case, Verdict], None]


class Matrix:
    """Cases under way in a thread of their own, each with its verdict to come."""

    def __init__(self, wanted: Sequence[Case], done: Done = lambda *_: None) -> None:
        self.verdicts: dict[str, Future[Verdict]] = {str(case): Future() for case in wanted}
        self._wanted = list(reversed(wanted))
        self._done = done
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="chaos")
        self._given_up = False

    def start(self) -> None:
        self._thread.start()

    def end_of_all(self) -> None:
        """Wait until every case has its verdict."""
        self._thread.join()

    def end(self) -> None:
        """Begin nothing more, and wait for what is under way."""
        self._given_up = True
        self._thread.join()

    async def _run(self) -> None:
        with tempfile.TemporaryDirectory(prefix="chaos-compiled-") as cache:
            # The first compiles what the others then find compiled.
            warm = asyncio.Event()
            lanes = [
                self._lane(Path(cache), warm, first=n == 0) for n in range(min(STACKS, len(self._wanted)))
            ]
            await asyncio.gather(*lanes)

    async def _lane(self, cache: Path, warm: asyncio.Event, *, first: bool) -> None:
        try:
            if not first:
                await warm.wait()
            async with running_stack(cache) as stack:
                warm.set()
                while self._wanted and not self._given_up:
                    case = self._wanted.pop()
                    try:
                        verdict = await case.act(stack)
                        if verdict.is_worth_another(case):  # the machine may have had other things to do
                            verdict = replace(await case.act(stack), is_second=True)
                    except Exception as error:  # noqa: BLE001 - it is the case's verdict
                        self.verdicts[str(case)].set_exception(error)
                    else:
                        self.verdicts[str(case)].set_result(verdict)
                        self._done(case, verdict)
        except BaseException as error:
            for verdict in self.verdicts.values():
                if not verdict.done():
                    verdict.set_exception(error)
            raise
        finally:
            warm.set()
