"""What is done to an installation, and what is asked of it afterwards: one case at a time on one stack."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from tests.chaos.errands import ERRANDS, begin_anew_with_limits, grow_old
from tests.chaos.points import PROCESSES, Point, points
from tests.chaos.stack import LEASE_SECONDS, SLOW_SECONDS, Found, Stack

RECOVERY_SECONDS = LEASE_SECONDS + 5.0
RESUME_SECONDS = LEASE_SECONDS + 2.0
"""From the death of a worker to the next call of its run by another one, which was at rest."""
_PATIENCE_SECONDS = 40.0
_RESUMES = 4
_LONG_SECONDS = 60.0
_FROZEN_SECONDS = LEASE_SECONDS + 1.5


@dataclass(frozen=True, slots=True)
class Case:
    """Something that befalls an installation."""

    victim: str
    what: str
    when: str
    act: Callable[[Stack], Awaitable["Verdict"]]
    within: float = RECOVERY_SECONDS
    """How soon all must be well again, on top of what a killed process takes to start."""

    def __str__(self) -> str:
        return f"{self.victim}: {self.what}" + (f", {self.when}" if self.when else "")


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a case ended."""

    happened: bool
    """The point was come to."""
    found: Found
    start_seconds: float = 0.0
    """How long the struck process took until its successor served."""
    is_second: bool = False
    """The case was taken a second time: at first all was in order, only too late, or nothing was struck."""

    def is_worth_another(self, case: Case) -> bool:
        """Return whether all is as it should be, only later, or the write was not come to in its time."""
        in_order = not self.found.breaches and self.found.left == 0
        is_late = self.found.seconds > case.within + self.start_seconds
        return in_order and (is_late or not self.happened)


def cases() -> tuple[Case, ...]:
    """Return every case: the points that the code has, then what no single write stands for."""
    killed = [
        Case(p.victim, f"killed at {p.process}'s {p.operation}", p.moment, partial(kill_at, point=p))
        for p in points()
    ]
    frozen = [
        Case(who, "frozen for longer than a lease", "", partial(freeze, victim=who))
        for who in (*PROCESSES, "postgresql", "redis")
    ]
    skewed = [
        Case(who, f"its clock {seconds:+d} s off", "", partial(skew, process=who, seconds=seconds))
        for who in PROCESSES
        for seconds in (-60, 60)
    ]
    emptied = [
        Case("redis", "emptied", "with runs queued", empty_with_runs_queued),
        Case("redis", "emptied", "with runs running", empty_with_runs_running),
    ]
    resumed = [Case("worker", "killed with another at rest", "", resume, RESUME_SECONDS)]
    return (*killed, *resumed, *frozen, *emptied, *skewed)


async def kill_at(stack: Stack, point: Point) -> Verdict:
    """Kill somebody at a write, whatever it takes to come to it; then work goes on and all comes to its end."""
    await stack.forget()
    errand = ERRANDS.get((point.process, point.operation))
    if errand is grow_old:
        await errand(stack)  # before: who forgets looks without being asked, and would be struck for nothing
    stack.arm(point)
    going: list[asyncio.Task[object]] = [asyncio.create_task(stack.post(seconds=SLOW_SECONDS))]
    happened = False
    for stimulus, patience in _stimuli(stack, point):
        going.append(asyncio.create_task(stimulus()))
        if happened := await stack.struck(point.process, patience):
            break
    took = await _start_seconds(stack, point.victim)
    if errand is begin_anew_with_limits:
        took = await _start_seconds(stack, point.process)  # the errand is its start, whoever else dies
    await asyncio.gather(*going)
    await stack.post()
    return Verdict(happened, await stack.outcome(within=_PATIENCE_SECONDS), took)


def _stimuli(stack: Stack, point: Point) -> list[tuple[Callable[[], Awaitable[None]], float]]:
    """Return what to do, one after the other, until the point is come to; and how long to wait each time."""
    errand = ERRANDS.get((point.process, point.operation))
    work, fire = (stack.work, 3.0), (stack.fire, 4.0)
    ring = stack.fire if point.process == "scheduler" else stack.work
    lose, forget = (stack.lose_a_worker, 8.0), (partial(stack.forget_scripts, ring), 4.0)
    guest = (stack.house_a_guest, 6.0)
    if errand is not None:
        return [(_wait if errand is grow_old else partial(errand, stack), 30.0)]
    if point.operation.endswith(".want"):
        return [(stack.stream, 4.0), (work[0], 3.0), (stack.stream, 4.0), lose, fire, forget]
    if "ACL" in point.operation or "queue_" in point.operation or "UNLINK" in point.operation:
        return [guest, work, fire, lose, forget]
    if "SCRIPT" in point.operation:
        return [forget, forget, forget, guest, lose]
    if point.process == "scheduler":
        return [fire, work, lose, guest, forget]
    return [work, lose, fire, forget, guest]


async def _wait() -> None:
    """Do nothing: what is to happen happens by itself."""


async def _start_seconds(stack: Stack, victim: str) -> float:
    member = stack.members.get(victim)
    with suppress(RuntimeError):
        await (stack.servers.until_back(stack.victims) if member is None else member.until_ready())
    return time.monotonic() - stack.struck_at


async def resume(stack: Stack) -> Verdict:
    """Kill whoever holds a run while another worker is at rest, some times over; the slowest resume counts."""
    await stack.forget()
    holder, resting = stack.members["worker"], stack.hire("worker", "spare")
    spare = resting
    run = await stack.post(seconds=_LONG_SECONDS)
    calls = stack.ledger.calls[run, "second"]
    slowest = 0.0
    try:
        for times in range(1, _RESUMES + 1):
            while len(calls) < times:
                await asyncio.sleep(0.01)
            resting.stays_down = False
            if times == 1:
                resting.start()
            await resting.until_ready()
            await asyncio.sleep(1.0)  # until it rests, and for a renewal of the lease
            holder.stays_down = True
            began = time.time()
            await holder.kill()
            while len(calls) <= times:
                await asyncio.sleep(0.01)
            slowest = max(slowest, calls[times][1] - began)
            holder, resting = resting, holder
        await stack.cancel(run)
        found = await stack.outcome(within=_PATIENCE_SECONDS)
    finally:
        await spare.end()
        stack.members["worker"].stays_down = False
    return Verdict(True, replace(found, seconds=slowest))


async def freeze(stack: Stack, victim: str) -> Verdict:
    """Stop somebody in the middle of runs, let leases run out, and wake them when others have taken over."""
    await stack.forget()
    spare = stack.hire("worker", "spare") if victim == "worker" else None
    await stack.work()
    slow = [asyncio.create_task(stack.post(seconds=SLOW_SECONDS)) for _ in range(3)]
    await asyncio.sleep(0.5)
    pids = [stack.members[victim].pid] if victim in stack.members else stack.servers.family(victim)
    stack.send(pids, signal.SIGSTOP)
    try:
        if spare is not None:
            spare.start()
        await asyncio.sleep(_FROZEN_SECONDS)
        if spare is not None:
            await spare.until_ready()
            await stack.until_over(_PATIENCE_SECONDS)
    finally:
        stack.send(pids, signal.SIGCONT)
        stack.struck_at = time.monotonic()
    await asyncio.gather(*slow, stack.post())
    found = await stack.outcome(within=_PATIENCE_SECONDS)
    if spare is not None:
        await asyncio.sleep(1.0)  # what the one that woke still wants to say
        found = await stack.outcome(within=1.0)
        await spare.end()
    return Verdict(True, found)


async def skew(stack: Stack, process: str, seconds: int) -> Verdict:
    """Let a process believe that it is a minute earlier or later."""
    member = stack.members[process]
    await member.restart(skew=seconds)
    try:
        await stack.forget()
        stack.struck_at = time.monotonic()
        await stack.work()
        await stack.fire()
        await stack.post()
        return Verdict(True, await stack.outcome(within=_PATIENCE_SECONDS))
    finally:
        await member.restart()


async def empty_with_runs_queued(stack: Stack) -> Verdict:
    """Let Redis forget every bell while nobody is there to hear one."""
    await stack.forget()
    worker = stack.members["worker"]
    worker.stays_down = True
    await worker.kill()
    try:
        await stack.work()
        stack.servers.redis.flush()
        stack.struck_at = time.monotonic()
    finally:
        worker.stays_down = False
    await worker.until_ready()
    took = time.monotonic() - stack.struck_at
    return Verdict(True, await stack.outcome(within=_PATIENCE_SECONDS), took)


async def empty_with_runs_running(stack: Stack) -> Verdict:
    """Let Redis forget everything in the middle of runs."""
    await stack.forget()
    working = asyncio.create_task(stack.work())
    await asyncio.sleep(0.4)
    stack.servers.redis.flush()
    stack.struck_at = time.monotonic()
    await working
    await stack.post()
    return Verdict(True, await stack.outcome(within=_PATIENCE_SECONDS))
