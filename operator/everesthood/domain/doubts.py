"""Doubts: a run stopped where nobody knows whether a step took effect, and a person says how it goes on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, Invalid, NotFound, Problem
from everesthood.domain.runs import Next, RunId, RunState

Answer = Literal["done", "repeat", "giveUp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What a person found out about a step, or decided."""

    namespace: str
    run: RunId
    answer: Answer
    """done: it took effect, and `output` is its output. repeat: it is done again. giveUp: the run ends."""
    actor: str
    step: str | None = None
    """Checkpoint that is in doubt; None for the only one or, to repeat, for all."""
    output: bytes = b"null"
    """JSON."""
    comment: str = ""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """What becomes of the checkpoints and of the run."""

    becomes: Next
    done: str | None = None
    """Checkpoint that gets the output."""
    forgotten: tuple[str, ...] = ()
    """Checkpoints that are removed, so that their steps are begun again or gone on with."""


def resolve(state: RunState, doubts: Sequence[str], said: Resolution) -> Resolved:
    """Return what a resolution comes to; `doubts` are the checkpoints that began and did not end.

    A step around the one in doubt, as a forEach or an agent is, goes on from its own checkpoints.

    Raises:
        Conflict: the run is not ambiguous. NotFound: no such step is in doubt. Invalid: several are.
    """
    if state is not RunState.AMBIGUOUS:
        what = f"Run {said.run} is {state.value}; only an ambiguous run can be resolved."
        raise Conflict(what, Reason.RUN_NOT_AMBIGUOUS)
    if said.answer == "giveUp":
        why = f"Given up by {said.actor}" + (f": {said.comment}" if said.comment else ".")
        return Resolved(becomes=Next(state=RunState.DEAD, reason=Reason.GIVEN_UP, message=why))
    chosen = _chosen(doubts, said)
    done = chosen[0] if said.answer == "done" else None
    settled = {name for name in doubts for one in chosen if name == one or _is_around(name, one)}
    if done is not None:
        settled |= {name for name in doubts if _is_around(done, name)}
    return Resolved(
        becomes=_following([name for name in _innermost(doubts) if name not in settled]),
        done=done,
        forgotten=tuple(name for name in doubts if name in settled and name != done),
    )


def _chosen(doubts: Sequence[str], said: Resolution) -> tuple[str, ...]:
    innermost = _innermost(doubts)
    if said.step is not None:
        if said.step not in doubts:
            there = f"; there are: {', '.join(innermost)}" if innermost else ""
            what = f"Run {said.run} has no step {said.step!r} in doubt{there}."
            raise NotFound(what, Reason.STEP_NOT_IN_DOUBT)
        return (said.step,)
    if said.answer == "repeat":
        return innermost
    if not innermost:
        raise NotFound(f"Run {said.run} has no step in doubt.", Reason.STEP_NOT_IN_DOUBT)
    if len(innermost) > 1:
        what = f"name one of those in doubt: {', '.join(innermost)}"
        raise Invalid(f"Several steps are in doubt: {what}.", problems=(Problem("/step", what),))
    return innermost


def _innermost(doubts: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in doubts if not any(_is_around(name, other) for other in doubts))


def _is_around(outer: str, name: str) -> bool:
    return name.startswith((f"{outer}/", f"{outer}["))


def _following(left: Sequence[str]) -> Next:
    if not left:
        return Next(state=RunState.QUEUED)
    said = f"Whether these took effect is still not known: {', '.join(left)}."
    return Next(state=RunState.AMBIGUOUS, reason=Reason.OUTCOME_UNKNOWN, message=said)
