"""An approval: whether it is due, and what a person is asked. The answer becomes the step's checkpoint."""

import time

from everesthood.apis.wire import Ask, StepRecord
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.steps import MAX_QUESTION
from everesthood.usecases.execute_step import Doing, StepEnd, failed, is_due, skipped
from everesthood.usecases.ports.worker import Scope


async def ask_approval(scope: Scope, doing: Doing) -> StepEnd:
    """Return the question, or that there is none to ask."""
    began = time.time()
    step, asked = scope.step, scope.step.approval
    assert asked is not None  # noqa: S101 - narrows the type
    try:
        if not await is_due(scope, doing.expressions):
            return skipped(step, began)
        message = await doing.expressions.render(asked.message, scope.variables)
    except EveresthoodError as failure:
        return failed(step, failure, began)
    ask = Ask(
        step=step.name,
        message=_short(message),
        deadline_seconds=asked.deadline_seconds,
        on_reject=asked.on_reject,
    )
    return StepEnd(record=StepRecord(name=step.name, state="started", started_at=began), ask=ask)


def _short(message: str) -> str:
    return message if len(message) <= MAX_QUESTION else message[: MAX_QUESTION - 1] + "…"
