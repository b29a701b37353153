"""Conditions in their order: what was judged becomes a list that is stable while nothing changes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from everesthood.apis.reasons import ConditionType, Reason
from everesthood.apis.v1alpha1.meta import Condition
from everesthood.domain.errors import Problem

Answer = Literal["True", "False", "Unknown"]
_MESSAGE_LENGTH = 1024
_OBSERVED_ORDER = list(ConditionType)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The answer to one question about an object."""

    type: ConditionType
    status: Answer
    reason: Reason
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A change that a person wants to read about: it becomes an Event."""

    type: Literal["Normal", "Warning"]
    reason: Reason
    message: str


def true(kind: ConditionType, reason: Reason, message: str = "") -> Verdict:
    """Return a positive verdict."""
    return Verdict(type=kind, status="True", reason=reason, message=message)


def false(kind: ConditionType, reason: Reason, message: str) -> Verdict:
    """Return a negative verdict."""
    return Verdict(type=kind, status="False", reason=reason, message=message)


def unknown(kind: ConditionType, reason: Reason, message: str) -> Verdict:
    """Return that nobody can say yet."""
    return Verdict(type=kind, status="Unknown", reason=reason, message=message)


def broken(kind: ConditionType, problems: Sequence[Problem], fallback: Reason) -> Verdict:
    """Return a negative verdict that quotes the first problem and counts the others."""
    first, others = problems[0], len(problems) - 1
    message = f"{first.path}: {first.message}" if first.path else first.message
    if others:
        message += f" (and {others} more)"
    return false(kind, first.reason if first.reason is not Reason.INVALID_SPEC else fallback, message)


def ready(chain: Iterable[Verdict], message: str = "") -> Verdict:
    """Return Ready: explained by the first verdict of the chain that is not True."""
    for verdict in chain:
        if verdict.status != "True":
            return Verdict(
                type=ConditionType.READY,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message,
            )
    return true(ConditionType.READY, Reason.READY, message)


def merge(
    before: Sequence[Condition], verdicts: Iterable[Verdict], *, generation: int, now: datetime
) -> list[Condition]:
    """Return the conditions to store; the time of one that keeps its status stays."""
    known = {c.type: c for c in before}
    ordered = sorted(verdicts, key=lambda v: _OBSERVED_ORDER.index(v.type))
    return [_condition(known.get(v.type), v, generation, now) for v in ordered]


def _condition(before: Condition | None, verdict: Verdict, generation: int, now: datetime) -> Condition:
    kept = before is not None and before.status == verdict.status
    return Condition(
        type=verdict.type.value,
        status=verdict.status,
        reason=verdict.reason.value,
        message=verdict.message[:_MESSAGE_LENGTH],
        last_transition_time=before.last_transition_time if before and kept else stamp(now),
        observed_generation=generation,
    )


def notices(before: Sequence[Condition], after: Sequence[Condition]) -> tuple[Notice, ...]:
    """Return what is worth an Event: a condition that became False or stalled, and Ready that became True."""
    known = {c.type: c.status for c in before}
    return tuple(
        Notice(type="Normal" if _is_good(c) else "Warning", reason=Reason(c.reason), message=c.message)
        for c in after
        if known.get(c.type) != c.status and _is_news(c)
    )


def find(conditions: Iterable[Condition], kind: ConditionType) -> Condition | None:
    """Return the condition of that type."""
    return next((c for c in conditions if c.type == kind), None)


def age_seconds(condition: Condition | None, now: datetime) -> float:
    """Return for how long a condition has had its status; 0 for one that is not there."""
    if condition is None:
        return 0.0
    return max(0.0, (now - datetime.fromisoformat(condition.last_transition_time)).total_seconds())


def stamp(now: datetime) -> str:
    """Return the time as Kubernetes writes it."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_good(condition: Condition) -> bool:
    return condition.type == ConditionType.READY and condition.status == "True"


def _is_news(condition: Condition) -> bool:
    match condition.type:
        case ConditionType.READY:
            return condition.status == "True"
        case ConditionType.STALLED:
            return condition.reason == Reason.ROLLOUT_FAILED
        case ConditionType.RECONCILING | ConditionType.SUSPENDED | ConditionType.WORKERS_AVAILABLE:
            return False
        case _:
            return condition.status == "False" and condition.reason != Reason.QUEUE_PENDING
