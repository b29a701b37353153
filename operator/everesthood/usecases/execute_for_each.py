"""A forEach: its steps for each item, some items at once, each inner step a checkpoint of its own.

The checkpoint of an inner step is `<step>[<index>].<inner>`, that of the items `<step>/$items`; no
author's name has a bracket or a dollar sign.
"""

import asyncio
import time
from collections import deque
from dataclasses import replace
from typing import Any, Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import StepRecord
from everesthood.domain import graph
from everesthood.domain.errors import (
    EveresthoodError,
    ExpressionFailed,
    KeyHeld,
    OutcomeUnknown,
    StepFailed,
)
from everesthood.domain.steps import MAX_ITEMS, MAX_ITEMS_BYTES, ForEachStep, Step
from everesthood.usecases.execute_step import (
    Doing,
    StepEnd,
    encoded,
    execute_step,
    failed,
    hand_in,
    is_due,
    skipped,
    succeeded,
)
from everesthood.usecases.ports.worker import Course, Scope
from everesthood.usecases.side_by_side import SideBySide

_ITEMS: Final = "$items"
_Key = tuple[int, Step]


async def execute_for_each(scope: Scope, doing: Doing) -> StepEnd:
    """Do what an earlier attempt left of the forEach, and return how it ended."""
    began = time.time()
    assert scope.step.for_each is not None  # noqa: S101 - narrows the type
    try:
        if not await is_due(scope, doing.expressions):
            return skipped(scope.step, began)
        items = await _items(scope, scope.step.for_each, doing)
        outputs = await _Loop(scope, scope.step.for_each, items, doing).run()
        raw = encoded(outputs, "the output")
    except EveresthoodError as failure:
        return failed(scope.step, failure, began)
    return succeeded(scope.step, raw, began)


async def _items(scope: Scope, loop: ForEachStep, doing: Doing) -> list[Any]:
    """Return the items, computed once and for all attempts."""
    name = f"{scope.step.name}/{_ITEMS}"
    past = scope.earlier.get(name)
    if past is not None:
        return msgspec.json.decode(past.output, type=list[Any])
    try:
        items = await doing.expressions.evaluate(loop.items, scope.variables)
    except ExpressionFailed as error:
        raise ExpressionFailed(f"items: {error.message}") from None
    if not isinstance(items, list):
        raise ExpressionFailed("items: the value is not a list")
    if len(items) > MAX_ITEMS:
        raise StepFailed(f"items: there are {len(items)}, the most is {MAX_ITEMS}", Reason.OUTPUT_TOO_LARGE)
    now = time.time()
    output = encoded(items, "the list of items")
    scope.journal.note(
        StepRecord(name=name, state="succeeded", output=output, started_at=now, finished_at=now)
    )
    return msgspec.json.decode(output, type=list[Any])


class _Loop:
    """The state of one forEach in one attempt."""

    def __init__(self, scope: Scope, loop: ForEachStep, items: list[Any], doing: Doing) -> None:
        self._scope = scope
        self._steps = loop.steps
        self._max_parallel = loop.max_parallel
        self._items = items
        self._doing = doing
        self._course = Course(critical=scope.course.critical)
        self._under_way: SideBySide[_Key] = SideBySide(self._course, lambda key: self._name(*key))
        self._waiting = deque(range(len(items)))
        self._open: dict[int, dict[str, object]] = {}
        self._outputs: list[object] = [None] * len(items)
        self._bytes = 0
        self._failure: EveresthoodError | None = None

    def _name(self, index: int, step: Step) -> str:
        return f"{self._scope.step.name}[{index}].{step.name}"

    async def run(self) -> list[object]:
        """Return each item's last output, in the order of the items."""
        self._check_past()
        until = asyncio.get_running_loop().time() + self._scope.step.timeout_seconds
        try:
            while self._go_on():
                left = until - asyncio.get_running_loop().time()
                closing = self._scope.course.closing
                self._settle(await self._under_way.first(or_when=closing, seconds=max(0.0, left)))
                if closing.done() or left <= 0 or self._failure is not None:
                    await self._end(is_late=left <= 0)
        except asyncio.CancelledError as cancelled:
            self._settle(await self._under_way.abandon(*cancelled.args[:1]))
            raise
        finally:
            self._settle(await self._under_way.abandon())
        if self._failure is not None:
            raise self._failure
        if self._open:
            raise StepFailed(f"no step can start, yet item {min(self._open)} is not done")
        return self._outputs

    def _check_past(self) -> None:
        """End at once where an earlier attempt already decided it."""
        for index in range(len(self._items)):
            past = self._past(index)
            doubt = graph.in_doubt(self._steps, past)
            if doubt is not None:
                raise OutcomeUnknown(_said(index, doubt, graph.IN_DOUBT))
            broken = graph.failed(self._steps, past)
            if broken is not None:
                inner = next(step for step in self._steps if past.get(step.name) is broken)
                raise _failure(_said(index, inner, broken.message), broken.reason)
            self._weigh(sum(len(bytes(record.output)) for record in past.values()))
        if self._failure is not None:
            raise self._failure

    def _past(self, index: int) -> dict[str, StepRecord]:
        """Return the checkpoints of one item, by the names that its steps have among themselves."""
        found = ((step.name, self._scope.earlier.get(self._name(index, step))) for step in self._steps)
        return {name: record for name, record in found if record is not None}

    def _go_on(self) -> bool:
        """Start what can start; return whether anything is under way."""
        while self._waiting and len(self._open) < self._max_parallel:
            index = self._waiting.popleft()
            past = self._past(index)
            values = {name: msgspec.json.decode(past[name].output) for name in graph.done(past)}
            self._open[index] = values
            self._start(index)
        return bool(self._under_way)

    def _start(self, index: int) -> None:
        """Start the steps of an item that are ready, or close the item when all are done."""
        values = self._open[index]
        if len(values) == len(self._steps):
            self._outputs[index] = values[self._steps[-1].name]
            del self._open[index]
            return
        busy = {step.name for at, step in self._under_way if at == index}
        for step in graph.ready(self._steps, values, busy):
            self._under_way.start((index, step), execute_step(self._inner(index, step), self._doing))

    def _inner(self, index: int, step: Step) -> Scope:
        outer = self._scope.variables
        steps: Any = outer["steps"]
        own = graph.outputs(self._steps, self._open[index])
        return replace(
            self._scope,
            step=msgspec.structs.replace(step, name=self._name(index, step)),
            variables={**outer, "steps": {**steps, **own}, "item": self._items[index], "index": index},
            course=self._course,
        )

    def _settle(self, ends: list[tuple[_Key, StepEnd]]) -> None:
        for (index, step), end in sorted(ends, key=lambda e: e[0][0]):
            hand_in(end, step, self._scope.journal, self._doing.figures)
            self._take_in(index, step, end)

    def _take_in(self, index: int, step: Step, end: StepEnd) -> None:
        record = end.record
        said = _said(index, step, record.message)
        if end.is_unknown:
            self._failure = OutcomeUnknown(said)
        elif isinstance(end.failure, KeyHeld):
            self._failure = self._failure or KeyHeld(said, retry_after_seconds=end.failure.seconds)
        elif record.state == "failed":
            self._failure = self._first(_failure(said, record.reason))
        else:
            self._open[index][step.name] = end.value
            self._weigh(len(bytes(record.output)))
            if self._failure is None and not self._course.closing.done():
                self._start(index)

    def _first(self, failure: EveresthoodError) -> EveresthoodError:
        """Return the failure that counts: the first, but for a held key, of which a person learns nothing."""
        known = self._failure
        return failure if known is None or isinstance(known, KeyHeld) else known

    def _weigh(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_ITEMS_BYTES:
            said = f"the outputs of all its steps together are larger than {MAX_ITEMS_BYTES} bytes"
            self._failure = self._failure or StepFailed(said, Reason.OUTPUT_TOO_LARGE)

    async def _end(self, *, is_late: bool) -> None:
        """Bring the loop to its end before all items are done."""
        if is_late and self._failure is None:
            said = f"it took longer than its {self._scope.step.timeout_seconds} s"
            self._failure = StepFailed(said, Reason.STEP_TIMED_OUT)
        self._settle(await self._under_way.wind_down())
        if self._failure is not None:
            raise self._failure
        raise asyncio.CancelledError  # another step failed, and this one is broken off


def _said(index: int, step: Step, message: str) -> str:
    return f"item {index}, step {step.name}: {message}"


def _failure(said: str, reason: str) -> StepFailed:
    known = reason in Reason.__members__.values()
    return StepFailed(said, Reason(reason) if known else None)
