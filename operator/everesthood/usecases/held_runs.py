"""The runs that a worker holds: some executing, a few waiting for a slot, each under its lease."""

import asyncio
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from everesthood.apis.wire import Assignment, Finish, Held

SHORT_RUN_SECONDS: Final = 1.0
"""Runs up to this long are claimed ahead of a free slot; longer ones are left to workers with one."""
_AHEAD_ROUND_TRIPS: Final = 2
"""How much work is claimed ahead: what is done while one call is under way and the next one waits for it."""


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
    arrived_at: float
    """When it was handed to the worker, by the same clock."""
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
        self._mean_trip_seconds = 0.0

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
        """Return how many more to claim: for each free slot, and ahead of those that will soon be free."""
        return max(0, self._slots + self._ahead - len(self._running) - len(self._waiting))

    @property
    def _ahead(self) -> int:
        """Return how many runs end before an answer brings new ones: rate times time, as in Little's law."""
        mean = self._mean_seconds
        if mean is None or mean > SHORT_RUN_SECONDS:
            return 0
        awaited = _AHEAD_ROUND_TRIPS * self._mean_trip_seconds
        return self._slots if awaited >= mean else math.ceil(self._slots * awaited / mean)

    def find(self, run: str) -> HeldRun | None:
        """Return the held run of that id."""
        return self._running.get(run) or next((h for h in self._waiting if h.assignment.run == run), None)

    def add(self, assignments: Collection[Assignment], asked_at: float, now: float) -> None:
        """Take runs in, to start when there is a slot."""
        if assignments:
            self._mean_trip_seconds = _smooth(self._mean_trip_seconds or None, now - asked_at)
        for assignment in assignments:
            until = asked_at + assignment.lease_seconds
            ends_at = asked_at + assignment.seconds_left
            self._waiting.append(
                HeldRun(assignment=assignment, lease_until=until, ends_at=ends_at, arrived_at=now)
            )

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
        self._mean_seconds = _smooth(self._mean_seconds, seconds)

    def stranded(self, now: float) -> list[HeldRun]:
        """Return what waits for a slot longer than a short run takes, and claim nothing ahead for now.

        The runs before them turned out to be long; another worker may have a slot.
        """
        found = [held for held in self._waiting if now - held.arrived_at > SHORT_RUN_SECONDS]
        if found:
            self._mean_seconds = None
        return found

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


def _smooth(mean: float | None, value: float) -> float:
    return value if mean is None else 0.9 * mean + 0.1 * value
