"""The life of a worker: claim runs, execute them side by side, hand in what they came to.

One call to the gateway is in flight; what completes meanwhile rides on the next, together with the
next claim. Leases are renewed on the side. All happens on one loop; `wake` may come from any thread.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, Literal

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Assignment, Finish, HeartbeatRequest, WorkReply, WorkRequest
from everesthood.domain.errors import EveresthoodError, Forbidden, Refused, Unauthenticated, Unavailable
from everesthood.usecases.claiming import Claiming
from everesthood.usecases.fetch_outputs import fetch_outputs
from everesthood.usecases.held_runs import HeldRun, HeldRuns, Stop
from everesthood.usecases.outbox import Batch, Outbox
from everesthood.usecases.ports.worker import Gateway, Journal, WorkFigures
from everesthood.usecases.run_journal import RunJournal

log = logging.getLogger(__name__)

LINE_SECONDS: Final = 0.25
"""How long log lines wait for company."""
HAND_IN_SECONDS: Final = 5.0
"""How long a stopping worker tries to hand in the rest after its grace is over."""
TICK_SECONDS: Final = 1.0
_LONGEST_BACKOFF_SECONDS: Final = 5.0
_LEASE_SECONDS: Final = 30.0
_BEAT_CHECK_SECONDS: Final = 0.2

Execute = Callable[[Assignment, Journal], Awaitable[Finish]]
"""Executes one attempt: `execute_run` with its agent and its steps filled in."""


class Worker:
    """Executes the runs of one agent. Build it, `serve` it on a loop, `wake` it, `stop` it."""

    def __init__(
        self,
        *,
        gateway: Gateway,
        execute: Execute,
        slots: int,
        figures: WorkFigures,
        trouble: Callable[[], str | None] = lambda: None,
    ) -> None:
        """Prepare; nothing is asked for before `serve`. `trouble` says why only a new process helps."""
        self.trouble = trouble
        self._gateway = gateway
        self._figures = figures
        self._execute = execute
        self._outbox = Outbox()
        self._held = HeldRuns(slots)
        self._claiming = Claiming(time.monotonic())
        self._stir = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._single_file = False
        self._failures = 0
        self._again_at = 0.0
        self._lines_due = 0.0
        self._leave: Literal["no", "offer", "yes"] = "no"
        self._told_at = float("-inf")
        self.leaving = asyncio.Event()
        """Set once it is to leave: bells are then for others."""

    async def serve(self) -> None:
        """Work until `stop` has handed everything in."""
        self._loop = asyncio.get_running_loop()
        watching = (self._watch_leases(), self._keep_leases(), self._hear_cancellations())
        side = [asyncio.create_task(one) for one in watching]
        self._pumping = asyncio.create_task(self._pump())
        try:
            await asyncio.wait([self._pumping, *side], return_when=asyncio.FIRST_COMPLETED)
        finally:
            rest = [self._pumping, *side, *self._tasks]
            for task in rest:
                task.cancel()
            for result in await asyncio.gather(*rest, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result

    def wake(self) -> None:
        """Look for work now; callable from any thread, at any time."""
        if self._loop is None:
            return  # a worker that starts looks for work anyway
        with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is gone
            self._loop.call_soon_threadsafe(self._rung)

    async def stop(self, grace_seconds: float) -> None:
        """Claim nothing more, let runs finish within the grace, hand back the rest, and end `serve`."""
        self._stopping = True
        self._hand_back_waiting(list(self._held))
        self._stir.set()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=grace_seconds)
        for held in self._held:
            held.break_off(Stop.RELEASE)
        if self._pumping is not None:
            await asyncio.wait([self._pumping], timeout=HAND_IN_SECONDS)
            self._pumping.cancel()

    # --- the one call -----------------------------------------------------------------------

    async def _pump(self) -> None:
        while not self._is_done():
            pause = self._pause(time.monotonic())
            if pause > 0:
                alarm = asyncio.get_running_loop().call_later(pause, self._stir.set)
                await self._stir.wait()
                alarm.cancel()
                self._stir.clear()
            else:
                self._stir.clear()
                await self._call()
                await asyncio.sleep(0)  # what is done in a moment rides on the next call

    def _is_done(self) -> bool:
        waits = self._outbox.is_urgent or self._outbox.has_lines
        return self._stopping and not self._tasks and not waits

    def _pause(self, now: float) -> float:
        """Return for how long there is no reason to call; 0 to call now."""
        if self._again_at > now:
            return self._again_at - now
        if self._outbox.is_urgent or (self._outbox.has_lines and self._lines_due <= now):
            return 0.0
        if self._leave != "no" and self._told_at + TICK_SECONDS <= now:
            return 0.0
        lines = self._lines_due - now if self._outbox.has_lines else TICK_SECONDS
        if self._want() == 0:
            return min(lines, TICK_SECONDS)
        return min(lines, TICK_SECONDS, self._claiming.pause(now))

    def _want(self) -> int:
        return 0 if self._stopping or self._leave == "yes" else self._held.want

    async def _call(self) -> None:
        batch = self._outbox.take_one() if self._single_file else self._outbox.take()
        want, asked_at = self._want(), time.monotonic()
        request = WorkRequest(
            want=want,
            finished=tuple(batch.finishes),
            checkpoints=batch.checkpoints,
            logs=tuple(batch.lines),
            settle_bell=want > 0 and self._claiming.settles(asked_at),
            holds=None if self._leave == "no" else self._held.count + len(self._outbox.finishing),
            leaves=self._leave == "yes",
        )
        self._told_at = asked_at
        try:
            reply = await self._gateway.work(request)
        except (Unavailable, Unauthenticated, Forbidden) as error:
            self._outbox.give_back(batch)
            self._back_off(error)
        except EveresthoodError as error:
            self._refused(batch, error)
        else:
            self._arrived(batch, request, reply, asked_at)

    def _arrived(self, batch: Batch, request: WorkRequest, reply: WorkReply, asked_at: float) -> None:
        self._failures = 0
        self._single_file = self._single_file and self._outbox.is_urgent
        for key in batch.notes:
            held = self._held.find(key[0])
            if key[0] in reply.lost and held is not None and held.key == key:
                self._lose(held)
        self._outbox.acknowledge(batch, reply.lost)
        self._claiming.claimed(
            request.want,
            len(reply.assignments),
            settled=request.settle_bell,
            now=time.monotonic(),
            next_due_in=reply.next_due_in,
            denied=bool(reply.denied),
        )
        if any(end.transient or end.retry_after_seconds is not None for end in batch.finishes):
            self._claiming.due_later()
        self._held.add(reply.assignments, asked_at, time.monotonic())
        self._asked_to(reply.leave)
        if self._stopping:
            self._hand_back_waiting(
                list(self._held)
            )  # claimed by a call that was under way when it was told to stop
        self._start_waiting()

    def _asked_to(self, leave: Literal["no", "offer", "yes"]) -> None:
        """Take in whether there are too many workers; one that is to leave does not come back."""
        if self._leave == "yes":
            return
        if leave != "no" and self._leave == "no":
            self._told_at = float("-inf")  # the answer is waited for
        self._leave = leave
        if leave == "yes":
            log.info("leaves: it claims nothing more and finishes the %d runs it holds", self._held.count)
            self._told_at = float("-inf")
            self.leaving.set()

    def _back_off(self, error: EveresthoodError) -> None:
        self._failures += 1
        pause = min(_LONGEST_BACKOFF_SECONDS, 0.1 * 2 ** min(self._failures, 10))
        self._again_at = time.monotonic() + pause
        level = logging.WARNING if self._failures == 1 else logging.INFO
        log.log(level, "the gateway cannot be asked; trying again in %.1f s: %s", pause, error.message)

    def _refused(self, batch: Batch, error: EveresthoodError) -> None:
        if not batch:
            self._back_off(error)
        elif batch.is_single:
            log.error("the gateway refused a result: %s", error.message)
            self._outbox.refuse(batch, error.message)
        else:
            self._outbox.give_back(batch)
            self._single_file = True

    # --- the runs ---------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        while not self._stopping and (held := self._held.next_to_start()) is not None:
            held.task = asyncio.create_task(self._execute_held(held))
            self._tasks.add(held.task)
            held.task.add_done_callback(self._tasks.discard)
        self._figures.holding(self._held.running, self._held.waiting)

    async def _execute_held(self, held: HeldRun) -> None:
        assignment, began = held.assignment, time.monotonic()
        self._figures.enter_run(assignment.run, assignment.request_id, assignment.attempt)
        finish = await self._finish_of(held)
        seconds = time.monotonic() - began
        self._held.ended(held, seconds)
        if finish is None or held.stop is Stop.LOST:
            self._outbox.drop(*held.key)
        else:
            self._outbox.finish(finish)
        self._figures.run_ended("lost" if finish is None else finish.outcome, seconds)
        self._start_waiting()
        self._stir.set()

    async def _finish_of(self, held: HeldRun) -> Finish | None:
        assignment = held.assignment
        journal = RunJournal(assignment.run, assignment.fence, self._outbox, partial(self._noted, held))
        try:
            fetched = await fetch_outputs(self._gateway, assignment)
            return await self._execute(held.begun(time.monotonic(), fetched), journal)
        except Refused:  # what is left of it is no longer ours to know
            held.stop = Stop.LOST
            return None
        except asyncio.CancelledError:
            return held.end()
        except Exception as error:  # noqa: BLE001 - a defect of ours must not take the other runs down
            where = "".join(traceback.format_tb(error.__traceback__))  # the text could hold a user's data
            log.error("a run broke the worker: %s\n%s", type(error).__name__, where)  # noqa: TRY400
            return Finish(
                run=assignment.run,
                fence=assignment.fence,
                outcome="failed",
                reason=Reason.INTERNAL,
                message=f"The worker has a defect: {type(error).__name__}. Its log says where.",
            )

    def _noted(self, held: HeldRun) -> None:
        if held.lease_until <= time.monotonic():
            # The process was frozen and wakes in the middle of a run that is another worker's by now: it must
            # not go on to the next step, and what watches leases has not had its turn yet.
            self._lose(held)
            raise asyncio.CancelledError
        if self._lines_due <= time.monotonic():
            self._lines_due = time.monotonic() + LINE_SECONDS
        self._stir.set()

    def _rung(self) -> None:
        self._claiming.rung()
        self._stir.set()

    def _lose(self, held: HeldRun) -> None:
        if not self._held.forget_waiting(held):
            held.break_off(Stop.LOST)

    def _cancel(self, held: HeldRun) -> None:
        if self._held.forget_waiting(held):
            self._hand_back(held, Stop.CANCEL)
        elif held.stop is None:  # once: what its code does about it must not be broken off in turn
            held.break_off(Stop.CANCEL)

    def _hand_back_waiting(self, waiting: Iterable[HeldRun]) -> None:
        for held in waiting:
            if self._held.forget_waiting(held):
                self._hand_back(held, Stop.RELEASE)

    def _hand_back(self, held: HeldRun, why: Stop) -> None:
        held.stop = why
        if (finish := held.end()) is not None:
            self._outbox.finish(finish)
            self._stir.set()

    # --- leases -----------------------------------------------------------------------------

    async def _watch_leases(self) -> None:
        """Let go of runs whose lease is over, and of those that found no slot; this waits for no gateway."""
        while True:
            for held in self._held.lapsed(time.monotonic()):
                log.warning(
                    "the lease of run %s ran out; another worker goes on with it", held.assignment.run
                )
                self._lose(held)
            self._hand_back_waiting(self._held.stranded(time.monotonic()))
            await asyncio.sleep(TICK_SECONDS)

    async def _keep_leases(self) -> None:
        beat_at = time.monotonic()
        while True:
            await asyncio.sleep(_BEAT_CHECK_SECONDS)
            every = self._held.heartbeat_seconds(_LEASE_SECONDS)
            if time.monotonic() - beat_at >= every and await self._heartbeat():
                beat_at = time.monotonic()

    async def _hear_cancellations(self) -> None:
        """Ask as soon as a run may have been cancelled; the answer to a heartbeat says which."""
        while True:
            if not self._held.running + self._held.waiting:
                await asyncio.sleep(_BEAT_CHECK_SECONDS)
                continue
            try:
                changed = await self._gateway.watch()
            except EveresthoodError as error:
                log.debug("cancellations are heard of at the next heartbeat only: %s", error.message)
                await asyncio.sleep(_LONGEST_BACKOFF_SECONDS)
            else:
                if changed:
                    await self._heartbeat()

    async def _heartbeat(self) -> bool:
        """Renew all leases; False to try again soon."""
        done = tuple(self._outbox.finishing)
        request = HeartbeatRequest(held=(*self._held.names(), *done))
        if not request.held:
            return True
        asked_at = time.monotonic()
        try:
            reply = await self._gateway.heartbeat(request)
        except EveresthoodError as error:
            log.warning("leases were not renewed; trying again: %s", error.message)
            return False
        lost = frozenset(reply.lost)
        self._held.renewed([h for h in request.held if h.run not in lost], asked_at)
        asked = {(h.run, h.fence) for h in request.held}
        for held in [h for h in self._held if h.key in asked]:
            if held.assignment.run in lost:
                self._lose(held)
            elif held.assignment.run in reply.cancel:
                self._cancel(held)
        return True
