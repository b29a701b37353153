"""One step of one run: whether it is due, its tries, and what is written of it."""

import asyncio
import random
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Ask, StepRecord
from everesthood.domain.attempts import SHORT_HOLD_SECONDS, next_pause
from everesthood.domain.errors import (
    EveresthoodError,
    ExpressionFailed,
    KeyHeld,
    OutcomeUnknown,
    StepFailed,
)
from everesthood.domain.steps import MAX_MESSAGE, MAX_OUTPUT_BYTES, Step
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Journal, Scope, Sleep, StepRunner, WorkFigures

_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """What doing steps takes, the same for all runs of a worker."""

    runner: StepRunner
    expressions: Expressions
    figures: WorkFigures
    sleep: Sleep = asyncio.sleep
    chance: random.Random = random.Random()  # noqa: S311, RUF009 - spreads retries, guards nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEnd:
    """How a step ended."""

    record: StepRecord
    value: object = None
    is_unknown: bool = False
    """Nobody knows whether it took effect."""
    failure: EveresthoodError | None = None
    ask: Ask | None = None
    """It has not ended: it waits for a person, and nothing is written of it."""


def encoded(value: object, what: str) -> msgspec.Raw:
    """Return a value as JSON that the record can keep, or raise StepFailed."""
    try:
        written = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise StepFailed(f"{what} is not JSON: {error}", Reason.OUTPUT_INVALID) from None
    if len(written) > MAX_OUTPUT_BYTES:
        size = f"{len(written)} bytes, the most is {MAX_OUTPUT_BYTES}"
        raise StepFailed(f"{what} is too large: {size}", Reason.OUTPUT_TOO_LARGE)
    if rb"\u0000" in written:  # PostgreSQL has no such character
        written = _NUL.sub(rb"\1\\ufffd", written)
    return msgspec.Raw(written)


async def execute_step(scope: Scope, doing: Doing) -> StepEnd:
    """Do the step, with its tries, and return how it ended."""
    end = await _executed(scope, doing)
    scope.course.forget(scope.step.name)
    return end


def hand_in(end: StepEnd, step: Step, journal: Journal, figures: WorkFigures) -> None:
    """Write how a step ended, and count it."""
    record = end.record
    journal.note(record)
    state = "unknown" if record.state == "started" else record.state
    figures.step_ended(step.kind, state, max(0.0, record.finished_at - record.started_at))


async def _executed(scope: Scope, doing: Doing) -> StepEnd:
    began = time.time()
    tries = 0
    try:
        if not await is_due(scope, doing.expressions):
            return skipped(scope.step, began)
        if not scope.step.may_repeat:
            scope.course.critical.add(scope.step.name)
            await scope.journal.commit(_record(scope.step, "started", began, finished_at=0.0))
        while True:
            tries += 1
            try:
                raw = await _try_once(scope, doing.runner)
                break
            except KeyHeld as held:
                tries -= 1
                await _wait_for_key(scope, held, doing)
            except StepFailed as failure:
                await _pause_or_give_up(scope, tries, failure, doing)
    except EveresthoodError as failure:
        return failed(scope.step, failure, began, tries)
    return succeeded(scope.step, raw, began, tries)


async def is_due(scope: Scope, expressions: Expressions) -> bool:
    """Return whether the step's condition holds."""
    if scope.step.when is None:
        return True
    holds = await expressions.evaluate(scope.step.when, scope.variables)
    if not isinstance(holds, bool):
        raise ExpressionFailed("when: the condition is neither true nor false")
    return holds


async def _try_once(scope: Scope, runner: StepRunner) -> msgspec.Raw:
    step = scope.step
    try:
        async with asyncio.timeout(step.timeout_seconds) as limit:
            return encoded(await runner.run(scope), "the output")
    except TimeoutError:
        if not limit.expired():
            raise StepFailed("it gave up waiting (TimeoutError)", transient=True) from None
        said = f"it took longer than its {step.timeout_seconds} s"
        if scope.course.holds_up(step.name):
            raise OutcomeUnknown(said) from None
        raise StepFailed(said, Reason.STEP_TIMED_OUT, transient=True) from None


async def _wait_for_key(scope: Scope, held: KeyHeld, doing: Doing) -> None:
    """Wait for a key that is soon free; raise for any other, so that nothing is held up by it."""
    if held.seconds > SHORT_HOLD_SECONDS:
        raise held
    scope.journal.log("info", f"waits {held.seconds:.1f} s: {held.message}", scope.step.name)
    # A little later than asked for, so that not all who wait come at the same moment.
    await doing.sleep(held.seconds + doing.chance.uniform(0, held.seconds / 10))


async def _pause_or_give_up(scope: Scope, tries: int, failure: StepFailed, doing: Doing) -> None:
    pause = next_pause(scope.step, tries, failure, chance=doing.chance)
    if pause is None:
        raise failure
    said = f"try {tries} failed: {failure.message}; next in {pause:.1f} s"
    scope.journal.log("warning", said, scope.step.name)
    await doing.sleep(pause)


def skipped(step: Step, began: float) -> StepEnd:
    """Return the end of a step whose condition does not hold."""
    return StepEnd(record=_record(step, "skipped", began))


def succeeded(step: Step, output: msgspec.Raw, began: float, tries: int = 1) -> StepEnd:
    """Return the end of a step that came to something."""
    record = _record(step, "succeeded", began, tries=tries, output=output)
    return StepEnd(record=record, value=msgspec.json.decode(output))


def failed(step: Step, failure: EveresthoodError, began: float, tries: int = 1) -> StepEnd:
    """Return the end of a step that came to nothing, or of which nobody knows."""
    unknown = isinstance(failure, OutcomeUnknown) and not (step.may_repeat and failure.transient)
    reason = failure.reason
    if isinstance(failure, OutcomeUnknown) and not unknown:
        reason = Reason.STEP_FAILED
    record = _record(
        step,
        "started" if unknown else "failed",
        began,
        tries=max(tries, 1),
        finished_at=0.0 if unknown else None,
        failure=(reason, failure.message[:MAX_MESSAGE]),
    )
    return StepEnd(record=record, is_unknown=unknown, failure=failure)


def _record(  # noqa: PLR0913 - all but the first three have their place in one record
    step: Step,
    state: str,
    began: float,
    *,
    tries: int = 1,
    output: msgspec.Raw | None = None,
    finished_at: float | None = None,
    failure: tuple[str, str] = ("", ""),
) -> StepRecord:
    return StepRecord(
        name=step.name,
        state=state,  # type: ignore[arg-type]
        output=msgspec.Raw(b"null") if output is None else output,
        reason=failure[0],
        message=failure[1],
        tries=tries,
        started_at=began,
        finished_at=time.time() if finished_at is None else finished_at,
    )


def variables(
    run: str, attempt: int, given: Mapping[str, object], steps: Mapping[str, object]
) -> dict[str, object]:
    """Return what expressions and templates see."""
    return {**given, "steps": steps, "run": {"id": run, "attempt": attempt}}
