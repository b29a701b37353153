"""An agent's graph: which steps can start, which run is over, where a resumed run stands."""

from collections.abc import Container, Mapping, Sequence

from everesthood.apis.wire import StepRecord
from everesthood.domain.steps import Step

IN_DOUBT = "it was under way when its worker died, and must not be repeated unseen"
_DONE = frozenset({"succeeded", "skipped"})


def ready(steps: Sequence[Step], done: Container[str], under_way: Container[str]) -> tuple[Step, ...]:
    """Return the steps that can start now, in the order in which the author wrote them.

    A skipped step is done: what needs it runs, and sees null.
    """
    return tuple(
        step
        for step in steps
        if step.name not in done and step.name not in under_way and all(need in done for need in step.needs)
    )


def done(records: Mapping[str, StepRecord]) -> frozenset[str]:
    """Return the names of steps that earlier attempts finished."""
    return frozenset(name for name, record in records.items() if record.state in _DONE)


def in_doubt(steps: Sequence[Step], records: Mapping[str, StepRecord]) -> Step | None:
    """Return the first step that may have taken effect in an earlier attempt and must not be repeated."""
    for step in steps:
        record = records.get(step.name)
        if record is not None and record.state == "started" and not step.may_repeat:
            return step
    return None


def failed(steps: Sequence[Step], records: Mapping[str, StepRecord]) -> StepRecord | None:
    """Return the first step that failed for good in an earlier attempt which died before it could say so."""
    for step in steps:
        record = records.get(step.name)
        if record is not None and record.state == "failed":
            return record
    return None


def outputs(steps: Sequence[Step], values: Mapping[str, object]) -> dict[str, object]:
    """Return `steps` as expressions see it: the outputs of the steps that are done."""
    return {step.name: values[step.name] for step in steps if step.name in values}
