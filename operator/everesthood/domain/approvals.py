"""Approvals: what a person's answer, or none, makes of a step and of its run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict
from everesthood.domain.runs import FINAL, Next, RunId, RunState

LONGEST_COMMENT: Final = 1000
SCHEDULER: Final = "scheduler"
"""Who closes a question whose deadline passed."""

OnReject = Literal["Fail", "Continue"]
Verdict = Literal["approved", "rejected", "expired"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a person says to a question of a run."""

    namespace: str
    run: RunId
    step: str
    approved: bool
    actor: str
    comment: str = ""
    request_id: str = ""

    @property
    def verdict(self) -> Verdict:
        """Return it as the record keeps it."""
        return "approved" if self.approved else "rejected"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question as it stands, with its run's lock held."""

    run_state: RunState
    deadline_at: datetime
    on_reject: OnReject
    verdict: Verdict | None = None
    decided_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """What becomes of the step and of the run."""

    verdict: Verdict
    step_state: Literal["succeeded", "failed"]
    output: Mapping[str, object] | None = None
    reason: str = ""
    message: str = ""
    becomes: Next | None = field(default=None)
    """None while the run is with a worker or due for one: it finds the answer by itself."""


def settle(asked: Question, said: Decision, now: datetime) -> Settled | None:
    """Return what an answer comes to; None where the same was said before.

    Raises:
        Conflict: somebody decided otherwise, the deadline passed, or the run is over.
    """
    if asked.verdict == said.verdict:
        return None
    if asked.verdict in ("approved", "rejected"):
        what = f"steps.{said.step} of run {said.run} was {asked.verdict} by {asked.decided_by}."
        raise Conflict(what, Reason.ALREADY_DECIDED)
    if asked.verdict == "expired" or asked.deadline_at <= now:
        what = f"The deadline of steps.{said.step} of run {said.run} passed before anybody decided."
        raise Conflict(what, Reason.APPROVAL_EXPIRED)
    if asked.run_state in FINAL:
        raise Conflict(f"Run {said.run} is over: it is {asked.run_state.value}.", Reason.RUN_FINISHED)
    if said.approved or asked.on_reject == "Continue":
        output = {"approved": said.approved, "by": said.actor, "comment": said.comment, "at": now.isoformat()}
        becomes = Next(state=RunState.QUEUED) if asked.run_state is RunState.WAITING else None
        return Settled(verdict=said.verdict, step_state="succeeded", output=output, becomes=becomes)
    why = f"rejected by {said.actor}" + (f": {said.comment}" if said.comment else "")
    return _failed("rejected", asked.run_state, said.step, Reason.APPROVAL_REJECTED, why)


def settle_unanswered(run_state: RunState, step: str) -> Settled:
    """Return what becomes of a question whose deadline passed."""
    why = "nobody decided before the deadline"
    return _failed("expired", run_state, step, Reason.APPROVAL_EXPIRED, why)


def _failed(verdict: Verdict, run_state: RunState, step: str, reason: Reason, why: str) -> Settled:
    """Return the end of the step and, unless a worker holds it, of the run: no worker is woken for that."""
    end = Next(state=RunState.DEAD, reason=reason, message=f"steps.{step}: {why}")
    becomes = None if run_state is RunState.RUNNING else end
    return Settled(verdict=verdict, step_state="failed", reason=reason, message=why, becomes=becomes)
