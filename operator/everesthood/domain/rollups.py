"""What people are told of an AgentInstance once its plan was tried: conditions and the rest of the status."""

import json
from collections.abc import Iterable
from datetime import datetime

from everesthood.apis.reasons import ConditionType as On
from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.instance import AgentInstanceStatus, RevisionStatus, WorkersStatus
from everesthood.domain import conditions, workers
from everesthood.domain.conditions import Verdict
from everesthood.domain.errors import Problem
from everesthood.domain.instances import Credential, Observed, Plan, Queue


def rollup(
    seen: Observed, plan: Plan, queue: Queue, *, refused: tuple[Problem, ...], now: datetime
) -> AgentInstanceStatus:
    """Return the status to store."""
    chain = [
        plan.accepted,
        plan.resolved,
        _credentials_ready(seen, plan),
        _queue_ready(queue, plan),
        _workers_available(seen, plan, refused),
    ]
    verdicts = [*chain, conditions.ready(chain, _of_new_runs(seen))]
    verdicts += _extras(seen, plan, chain)
    verdicts += _holds(queue)
    merged = conditions.merge(seen.status.conditions, verdicts, generation=seen.live.generation, now=now)
    return AgentInstanceStatus(
        conditions=merged,
        observed_generation=seen.live.generation,
        revision=_revisions(seen, plan),
        workers=_workers(seen, plan),
    )


def _of_new_runs(seen: Observed) -> str:
    """Return what becomes of runs that are accepted while all is well."""
    if seen.spec.suspend:
        return "It is suspended: nothing new starts."
    if seen.spec.workers.most == 0:
        return "New runs wait: spec.workers.replicas is 0."
    return "New runs are executed."


def _revisions(seen: Observed, plan: Plan) -> RevisionStatus:
    before = seen.status.revision
    good = plan.serving if plan.rollout.arrived else before.last_good
    return RevisionStatus(desired=plan.desired, current=plan.serving, last_good=good)


def _workers(seen: Observed, plan: Plan) -> WorkersStatus:
    shown = plan.serving or plan.target
    live = seen.deployment(shown) if shown else None
    status = json.loads(live.status) if live else {}
    wanted = ",".join(f"{k}={v}" for k, v in sorted(workers.selector(seen.live, shown or "").items()))
    chosen = seen.chosen.get(shown or "")
    return WorkersStatus(
        desired=chosen.desired if chosen else seen.replicas(shown),
        reason=chosen.reason if chosen else Reason.FIXED_NUMBER,
        replicas=status.get("replicas", 0),
        available=status.get("availableReplicas", 0),
        selector=wanted,
    )


def _credentials_ready(seen: Observed, plan: Plan) -> Verdict:
    kind = On.CREDENTIALS_READY
    content = seen.contents.get(plan.target or plan.serving or "")
    if content is None:
        return conditions.unknown(kind, Reason.RECONCILING, "It waits for the template.")
    if not content.credentials:
        return conditions.true(kind, Reason.NO_CREDENTIALS_NEEDED)
    bound = {b.slot: b.credential_ref.name for b in seen.spec.credentials}
    for slot in content.credentials:
        verdict = _slot(slot.name, bound.get(slot.name), slot.required == "Always", seen)
        if verdict is not None:
            return verdict
    return conditions.true(kind, Reason.CREDENTIALS_READY)


def _slot(slot: str, name: str | None, required: bool, seen: Observed) -> Verdict | None:
    """Return why a slot cannot be used; None when it can, or need not be."""
    kind = On.CREDENTIALS_READY
    if name is None:
        message = f"Slot {slot} has no entry in spec.credentials."
        return conditions.false(kind, Reason.CREDENTIAL_NOT_BOUND, message) if required else None
    found = seen.credentials.get(name)
    if found is None:
        message = f"Slot {slot} names AgentCredential {name}, which does not exist."
        return conditions.false(kind, Reason.CREDENTIAL_NOT_FOUND, message)
    if found.refusals:
        return conditions.false(kind, Reason.CREDENTIAL_NOT_ALLOWED, f"Slot {slot}: {found.refusals[0]}")
    return _readable(name, found)


def _readable(name: str, found: Credential) -> Verdict | None:
    """Return why the value of a credential cannot be used yet."""
    kind = On.CREDENTIALS_READY
    ready = conditions.find(found.status.conditions, On.READY)
    if ready is None or ready.status == "Unknown":
        message = f"AgentCredential {name} has not been read yet."
        return conditions.unknown(kind, Reason.CREDENTIAL_PENDING, message)
    if ready.status == "False":
        message = f"AgentCredential {name}: {ready.message}"
        return conditions.false(kind, Reason.CREDENTIAL_NOT_READY, message)
    return None


def _queue_ready(queue: Queue, plan: Plan) -> Verdict:
    kind = On.QUEUE_READY
    if not queue.reached:
        return conditions.unknown(kind, Reason.RECORD_UNAVAILABLE, "The record of runs cannot be reached.")
    if queue.ready:
        return conditions.true(kind, Reason.QUEUE_READY)
    if not plan.publishes:
        return conditions.unknown(kind, Reason.RECONCILING, "It waits for the template.")
    return conditions.false(kind, Reason.QUEUE_PENDING, "The queue's broker user has not been made yet.")


def _workers_available(seen: Observed, plan: Plan, refused: tuple[Problem, ...]) -> Verdict:
    kind = On.WORKERS_AVAILABLE
    if refused:
        return conditions.broken(kind, refused, Reason.APPLY_REFUSED)
    shown = plan.serving or plan.target
    if shown is None:
        return conditions.unknown(kind, Reason.RECONCILING, "It waits for the template.")
    status = _workers(seen, plan)
    wanted = _least(seen, plan, status)
    if status.available >= wanted and seen.deployment(shown) is not None:
        return conditions.true(kind, Reason.WORKERS_AVAILABLE)
    why = plan.rollout.why(shown)
    return conditions.false(
        kind, Reason.WORKERS_UNAVAILABLE, f"{status.available} of {wanted} workers are available.{why}"
    )


def _least(seen: Observed, plan: Plan, status: WorkersStatus) -> int:
    """Return how many workers must be up: those that are still starting for more work are no fault."""
    bounds, chosen = seen.spec.workers.autoscaling, seen.chosen.get(plan.serving or "")
    if bounds is None or chosen is None or chosen.late:
        return status.desired
    return min(bounds.min_replicas, status.desired)


def _extras(seen: Observed, plan: Plan, chain: list[Verdict]) -> Iterable[Verdict]:
    if seen.spec.suspend:
        yield conditions.true(On.SUSPENDED, Reason.SUSPENDED, "spec.suspend is true.")
    stalled = _stalled(plan, chain)
    if stalled is not None:
        yield stalled
    elif plan.target not in (None, plan.serving) or any(_moving(v) for v in chain):
        yield conditions.true(On.RECONCILING, Reason.RECONCILING, "The cluster is being brought to the spec.")


def _holds(queue: Queue) -> Iterable[Verdict]:
    """Return what people hold the queue with; neither is the owner's intent, which is Suspended."""
    if queue.pause is not None:
        yield conditions.true(On.PAUSED, Reason.QUEUE_PAUSED, str(queue.pause))
    if queue.stop is not None:
        yield conditions.true(On.STOPPED, Reason.ORGANIZATION_STOPPED, str(queue.stop))


def _moving(verdict: Verdict) -> bool:
    return verdict.reason in {
        Reason.RECONCILING,
        Reason.QUEUE_PENDING,
        Reason.WORKERS_UNAVAILABLE,
        Reason.CREDENTIAL_PENDING,
        Reason.RECORD_UNAVAILABLE,
    }


_TERMINAL = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.CONFIG_INVALID,
        Reason.NOT_YET_SUPPORTED,
        Reason.TEMPLATE_INVALID,
        Reason.REVISION_NOT_FOUND,
        Reason.CONFLICT,
        Reason.APPLY_REFUSED,
    }
)


def _stalled(plan: Plan, chain: list[Verdict]) -> Verdict | None:
    """Return that nothing will move until somebody changes something."""
    for verdict in chain:
        if verdict.status == "False" and verdict.reason in _TERMINAL:
            stays = f" Revision {plan.serving} keeps running." if plan.serving else ""
            return conditions.true(On.STALLED, verdict.reason, f"{verdict.message}{stays}")
    if plan.rollout.failed:
        stays = f"; revision {plan.serving} keeps running" if plan.serving else ""
        return conditions.true(
            On.STALLED,
            Reason.ROLLOUT_FAILED,
            f"Revision {plan.target} did not become available{stays}.{plan.rollout.why(plan.target or '')}",
        )
    return None
