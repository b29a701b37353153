"""The runs that a worker holds: some executing, a few waiting for a slot, each under its lease."""

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from everesthood.apis.wire import Assignment, Finish, Held

SHORT_RUN_SECONDS: Final = 1.0
"""Runs up to this long are claimed ahead of a free slot; longer ones are left to workers with one."""


class Stop(Enum):
    """Why a run is broken off."""

    CANCEL = "cancelled"
    """A person or program wants it to end."""
    RELEASE = "released"
    """The worker stops; another goes on."""
    LOST = "lost"
    """It is another attempt's by now: nothing of it is written any more."""


@dataclass(slots=True, kw_only=True, eq=False)
class HeldRun:
    """One run under a lease."""

    assignment: Assignment
    lease_until: float
    """By the loop's monotonic clock, counted from before the gateway was asked."""
    ends_at: float
    """When the run as a whole is out of time, by the same clock."""
    task: asyncio.Task[None] | None = None
    stop: Stop | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Return what the record knows the attempt by."""
        return self.assignment.run, self.assignment.fence

    def begun(self, now: float, complete: Assignment) -> Assignment:
        """Return the complete assignment as it stands when its execution begins: it may have waited."""
        return msgspec.structs.replace(complete, seconds_left=self.ends_at - now)

    def break_off(self, why: Stop) -> None:
        """End its execution; the first reason counts, but for a lost lease."""
        if self.stop is None or why is Stop.LOST:
            self.stop = why
        if self.task is not None:
            self.task.cancel(why.value)  # said along, since a person's wish leaves time to tidy up

    def end(self) -> Finish | None:
        """Return what to hand in for a run that was broken off."""
        if self.stop is Stop.CANCEL:
            return Finish(run=self.assignment.run, fence=self.assignment.fence, outcome="cancelled")
        if self.stop is Stop.RELEASE:
            return Finish(run=self.assignment.run, fence=self.assignment.fence, outcome="released")
        return None


class HeldRuns:
    """Keeps count of slots."""

    def __init__(self, slots: int) -> None:
        """Execute at most `slots` runs at once."""
        self._slots = slots
        self._running: dict[str, HeldRun] = {}
        self._waiting: deque[HeldRun] = deque()
        self._mean_seconds: float | None = None

    def __iter__(self) -> Iterator[HeldRun]:
        """Iterate over all that is held."""
        return iter([*self._running.values(), *self._waiting])

    @property
    def running(self) -> int:
        """Return how many execute."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Return how many wait for a slot."""
        return len(self._waiting)

    @property
    def count(self) -> int:
        """Return how many are held."""
        return len(self._running) + len(self._waiting)

    @property
    def want(self) -> int:
        """Return how many more to claim: for each free slot, and a fifth ahead while runs are short."""
        short = self._mean_seconds is not None and self._mean_seconds <= SHORT_RUN_SECONDS
        ahead = self._slots // 5 if short else 0
        return max(0, self._slots + ahead - len(self._running) - len(self._waiting))

    def find(self, run: str) -> HeldRun | None:
        """Return the held run of that id."""
        return self._running.get(run) or next((h for h in self._waiting if h.assignment.run == run), None)

    def add(self, assignments: Iterable[Assignment], asked_at: float) -> None:
        """Take runs in, to start when there is a slot."""
        for assignment in assignments:
            until = asked_at + assignment.lease_seconds
            ends_at = asked_at + assignment.seconds_left
            self._waiting.append(HeldRun(assignment=assignment, lease_until=until, ends_at=ends_at))

    def next_to_start(self) -> HeldRun | None:
        """Move a waiting run into a free slot and return it."""
        if not self._waiting or len(self._running) >= self._slots:
            return None
        held = self._waiting.popleft()
        self._running[held.assignment.run] = held
        return held

    def ended(self, held: HeldRun, seconds: float) -> None:
        """Free the slot of a run."""
        if self._running.get(held.assignment.run) is held:
            del self._running[held.assignment.run]
        before = self._mean_seconds
        self._mean_seconds = seconds if before is None else 0.9 * before + 0.1 * seconds

    def forget_waiting(self, held: HeldRun) -> bool:
        """Let go of a run that has not started; False if it has."""
        if held not in self._waiting:
            return False
        self._waiting.remove(held)
        return True

    def names(self) -> tuple[Held, ...]:
        """Return all that is held, as a heartbeat names it."""
        return tuple(Held(run=h.assignment.run, fence=h.assignment.fence) for h in self)

    def renewed(self, keys: Iterable[Held], asked_at: float) -> None:
        """Prolong the leases that the gateway renewed."""
        renewed = {(held.run, held.fence) for held in keys}
        for held in self:
            if held.key in renewed:
                held.lease_until = max(held.lease_until, asked_at + held.assignment.lease_seconds)

    def lapsed(self, now: float) -> list[HeldRun]:
        """Return runs whose lease nobody confirmed in time; they may be another worker's."""
        return [held for held in self if held.lease_until <= now and held.stop is not Stop.LOST]

    def heartbeat_seconds(self, default: float) -> float:
        """Return how often leases must be renewed: three times in the shortest."""
        return min((h.assignment.lease_seconds for h in self), default=default) / 3
