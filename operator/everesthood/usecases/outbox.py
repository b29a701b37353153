"""What a worker has done and the gateway does not know yet. Nothing leaves before it is acknowledged."""

import asyncio
from collections import deque
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Checkpoint, Finish, Held, LogLine, StepRecord
from everesthood.domain.errors import StepFailed
from everesthood.domain.steps import MAX_MESSAGE

MAX_FINISHES: Final = 200
"""Finished runs in one call; beyond, a longer statement gains nothing."""
MAX_BYTES: Final = 2_097_152
"""Outputs in one call; the first item goes whatever its size."""
MAX_LINES: Final = 500
_ALONG_BYTES: Final = 262_144


@dataclass(slots=True, kw_only=True)
class Note:
    """A step record on its way, and who waits until it is durable."""

    record: StepRecord
    durable: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What one call carries."""

    notes: dict[tuple[str, int], list[Note]] = field(default_factory=dict)
    finishes: list[Finish] = field(default_factory=list)
    lines: list[LogLine] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Return whether there is anything to hand in."""
        return bool(self.notes or self.finishes or self.lines)

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Return the notes as the gateway takes them."""
        return tuple(
            Checkpoint(run=run, fence=fence, steps=_newest(note.record for note in notes))
            for (run, fence), notes in self.notes.items()
        )

    @property
    def is_single(self) -> bool:
        """Return whether it carries one thing, so that a refusal is about that one."""
        return sum(map(len, self.notes.values())) + len(self.finishes) + len(self.lines) == 1


class Outbox:
    """Holds checkpoints, finishes and log lines until they are handed in."""

    def __init__(self) -> None:
        """Start empty."""
        self._notes: dict[tuple[str, int], list[Note]] = {}
        self._finishes: deque[Finish] = deque()
        self._lines: deque[LogLine] = deque()

    @property
    def is_urgent(self) -> bool:
        """Return whether something waits that a call should be made for at once."""
        return bool(self._notes or self._finishes)

    @property
    def has_lines(self) -> bool:
        """Return whether log lines wait; they may wait a moment for company."""
        return bool(self._lines)

    @property
    def finishing(self) -> list[Held]:
        """Return the finishes that wait; their runs are still held."""
        return [Held(run=f.run, fence=f.fence) for f in self._finishes]

    def note(self, run: str, fence: int, note: Note) -> None:
        """Add a checkpoint."""
        self._notes.setdefault((run, fence), []).append(note)

    def finish(self, finish: Finish) -> None:
        """Add the end of an attempt; checkpoints of it that still wait go along in it, or before it."""
        key = (finish.run, finish.fence)
        if sum(map(_size, self._notes.get(key, ()))) > _ALONG_BYTES:
            self._finishes.append(finish)
            return
        waiting = self._notes.pop(key, [])
        for note in waiting:
            _tell(note, lost=True)  # its step is over with its run: nobody acts on the answer any more
        steps = _newest([*(note.record for note in waiting), *finish.steps])
        self._finishes.append(_with_steps(finish, steps))

    def log(self, line: LogLine) -> None:
        """Add a log line."""
        self._lines.append(line)

    def drop(self, run: str, fence: int) -> None:
        """Forget the checkpoints of a run that is another worker's by now."""
        for note in self._notes.pop((run, fence), []):
            _tell(note, lost=True)

    def take(self) -> Batch:
        """Take what the next call carries, oldest first; a run's end never before its checkpoints."""
        batch = Batch()
        room = MAX_BYTES
        while self._notes and (room > 0 or not batch):
            room -= _size(self._move_note(batch))
        while self._finishes and len(batch.finishes) < MAX_FINISHES and (room > 0 or not batch):
            batch.finishes.append(self._finishes.popleft())
            room -= _weight(batch.finishes[-1])
        while self._lines and len(batch.lines) < MAX_LINES:
            batch.lines.append(self._lines.popleft())
        return batch

    def take_one(self) -> Batch:
        """Take a single thing, to find the one that the gateway refuses."""
        batch = Batch()
        if self._notes:
            self._move_note(batch)
        elif self._finishes:
            batch.finishes.append(self._finishes.popleft())
        elif self._lines:
            batch.lines.append(self._lines.popleft())
        return batch

    def _move_note(self, batch: Batch) -> Note:
        key = next(iter(self._notes))
        note = self._notes[key].pop(0)
        if not self._notes[key]:
            del self._notes[key]
        batch.notes.setdefault(key, []).append(note)
        return note

    def give_back(self, batch: Batch) -> None:
        """Put a batch that did not arrive back to the front."""
        newer = {(f.run, f.fence): {step.name for step in f.steps} for f in self._finishes}
        for key, notes in reversed(batch.notes.items()):
            kept = [note for note in notes if note.record.name not in newer.get(key, ())]
            self._notes = {key: [*kept, *self._notes.pop(key, [])], **self._notes}
            if not self._notes[key]:
                del self._notes[key]
        self._finishes.extendleft(reversed(batch.finishes))
        self._lines.extendleft(reversed(batch.lines))

    def acknowledge(self, batch: Batch, lost: Container[str]) -> None:
        """Tell whoever waits that a batch arrived, or that its run is another's."""
        for (run, _), notes in batch.notes.items():
            for note in notes:
                _tell(note, lost=run in lost)

    def refuse(self, batch: Batch, why: str) -> None:
        """Let go of the single thing that the gateway refuses; its run ends with the reason."""
        for notes in batch.notes.values():
            for note in notes:
                if note.durable is not None and not note.durable.done():
                    note.durable.set_exception(StepFailed(f"the checkpoint was refused: {why}"))
        for finish in batch.finishes:
            if finish.reason != Reason.INTERNAL:
                said = f"The result was refused: {why}"[:MAX_MESSAGE]
                self._finishes.append(
                    Finish(
                        run=finish.run,
                        fence=finish.fence,
                        outcome="failed",
                        reason=Reason.INTERNAL,
                        message=said,
                    )
                )


def _newest(records: Iterable[StepRecord]) -> tuple[StepRecord, ...]:
    """Return one record a name, the latest: a statement cannot write the same row twice."""
    return tuple({record.name: record for record in records}.values())


def _size(note: Note) -> int:
    return len(bytes(note.record.output))


def _weight(finish: Finish) -> int:
    """Return about how many bytes a finish takes."""
    return len(bytes(finish.output)) + sum(len(bytes(step.output)) for step in finish.steps)


def _tell(note: Note, *, lost: bool) -> None:
    if note.durable is None or note.durable.done():
        return
    if lost:
        note.durable.cancel()
    else:
        note.durable.set_result(None)


def _with_steps(finish: Finish, steps: tuple[StepRecord, ...]) -> Finish:
    if steps == finish.steps:
        return finish
    return msgspec.structs.replace(finish, steps=steps)
