"""What an AgentInstance needs: from what is observed to children, removals and conditions.

Two pure steps, because applying children changes what is observed: `plan` says what should exist,
`rollup` says what to tell people once that was tried.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from everesthood.apis.reasons import ConditionType as On
from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.credential import AgentCredentialSpec, AgentCredentialStatus
from everesthood.apis.v1alpha1.instance import (
    AgentInstanceSpec,
    AgentInstanceStatus,
    RevisionStatus,
    WorkersStatus,
)
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, AgentTemplateStatus
from everesthood.domain import conditions, limits, revisions, workers
from everesthood.domain.children import Child
from everesthood.domain.conditions import Verdict
from everesthood.domain.errors import Problem
from everesthood.domain.observed import Key, Kind, Live
from everesthood.domain.queues import Pause, Stop
from everesthood.domain.rollouts import Rollout, rollout_of, standing_of
from everesthood.domain.scaling import Chosen, Policy
from everesthood.domain.workers import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The template that an instance names."""

    live: Live
    status: AgentTemplateStatus
    revisions: tuple[Live, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """A credential that an instance binds; `refusals` say why it may not."""

    spec: AgentCredentialSpec
    status: AgentCredentialStatus
    refusals: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What the record says of the instance's queue; `reached` is False when it cannot be asked."""

    reached: bool
    ready: bool = False
    open_revisions: frozenset[str] = frozenset()
    pause: Pause | None = None
    stop: Stop | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything that is known about an instance in one moment."""

    live: Live
    spec: AgentInstanceSpec
    status: AgentInstanceStatus
    template: Template | None
    contents: Mapping[str, AgentTemplateSpec]
    """Revision → content, for those that may matter."""
    problems: Mapping[str, tuple[Problem, ...]]
    """Revision → where the instance contradicts it; under "" what is wrong with it by itself."""
    credentials: Mapping[str, Credential]
    children: tuple[Live, ...]
    chosen: Mapping[str, Chosen] = field(default_factory=dict)
    """Revision → how many workers it has by the work; the others have a fixed number."""

    def replicas(self, revision: str | None) -> int:
        """Return how many workers the Deployment of a revision is to have now."""
        chosen = self.chosen.get(revision or "")
        if chosen is not None:
            return chosen.replicas
        bounds = self.spec.workers.autoscaling
        if bounds is None:
            return self.spec.workers.replicas
        live = self.deployment(revision or "")
        return standing_of(live).replicas if live else max(1, bounds.min_replicas)

    def deployment(self, revision: str) -> Live | None:
        """Return the workers of a revision."""
        return next((c for c in self.deployments() if c.revision == revision), None)

    def deployments(self) -> tuple[Live, ...]:
        """Return the workers of all revisions."""
        return tuple(c for c in self.children if c.key.kind is Kind.DEPLOYMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What should exist for an instance."""

    accepted: Verdict
    resolved: Verdict
    desired: str | None
    """Revision that the spec asks for, also when it cannot be had."""
    target: str | None = None
    """Revision to bring up; None while there is a reason not to."""
    serving: str | None = None
    """Revision that new runs start on."""
    publishes: bool = False
    """Whether others may learn of the instance as its spec now is."""
    children: tuple[Child, ...] = ()
    surplus: tuple[Live, ...] = ()
    """Children that nothing asks for, apart from workers."""
    rollout: Rollout = field(default_factory=Rollout)


def desired_revision(spec: AgentInstanceSpec, template: Template | None) -> str | None:
    """Return the digest that the spec asks for, as far as it is known."""
    if template is None:
        return None
    if spec.update_policy == "Manual":
        return revisions.find(spec.revision or "", template.revisions)
    return template.status.revision


def relevant_revisions(
    seen: AgentInstanceStatus, desired: str | None, live: Iterable[Live]
) -> frozenset[str]:
    """Return the revisions whose content a plan may need."""
    return frozenset(filter(None, (desired, seen.revision.current, *(c.revision for c in live))))


def plan(seen: Observed, site: Site) -> Plan:
    """Return what should exist."""
    desired = desired_revision(seen.spec, seen.template)
    resolved = _resolved(seen, desired)
    accepted = _accepted(seen, desired if resolved.status == "True" else None)
    serving = seen.status.revision.current
    target = desired if resolved.status == accepted.status == "True" else None
    rollout = rollout_of(
        target=target,
        serving=serving,
        deployments={d.revision: d for d in seen.deployments()},
        replicas=seen.replicas(target),
    )
    frozen = accepted.status != "True" and bool(seen.problems.get(serving or ""))
    if frozen or not (target or rollout.serving):
        return Plan(accepted=accepted, resolved=resolved, desired=desired, serving=serving, rollout=rollout)
    children = tuple(_children(seen, site, target, rollout.serving))
    return Plan(
        accepted=accepted,
        resolved=resolved,
        desired=desired,
        target=target,
        serving=rollout.serving,
        publishes=True,
        children=children,
        surplus=_surplus(seen, children),
        rollout=rollout,
    )


def drained(seen: Observed, plan: Plan, queue: Queue) -> tuple[Live, ...]:
    """Return workers of revisions that nothing runs on any more."""
    if not queue.reached or not plan.publishes:
        return ()
    kept = {plan.target, plan.serving, *queue.open_revisions}
    return tuple(d for d in seen.deployments() if d.revision not in kept)


def _accepted(seen: Observed, desired: str | None) -> Verdict:
    problems = seen.problems.get(desired or "", ())
    if problems:
        return conditions.broken(On.ACCEPTED, problems, Reason.INVALID_SPEC)
    return conditions.true(On.ACCEPTED, Reason.ACCEPTED)


def _resolved(seen: Observed, desired: str | None) -> Verdict:
    name = seen.spec.template_ref.name
    if seen.template is None:
        return conditions.false(
            On.TEMPLATE_RESOLVED,
            Reason.TEMPLATE_NOT_FOUND,
            f"There is no AgentTemplate {name} in namespace {seen.live.key.namespace}.",
        )
    if seen.spec.update_policy == "Manual":
        if desired is None:
            return conditions.false(
                On.TEMPLATE_RESOLVED,
                Reason.REVISION_NOT_FOUND,
                f"AgentTemplate {name} has no revision {seen.spec.revision}.",
            )
    else:
        verdict = _followed(seen.template, name)
        if verdict is not None:
            return verdict
    if desired not in seen.contents:
        return _waiting(f"Revision {desired} of AgentTemplate {name} is being kept.")
    return conditions.true(On.TEMPLATE_RESOLVED, Reason.TEMPLATE_RESOLVED)


def _followed(template: Template, name: str) -> Verdict | None:
    """Return why a template cannot be followed; None when it can.

    While a new content has not been judged, the last verdict holds: nothing flaps for an edit.
    """
    judged = conditions.find(template.status.conditions, On.ACCEPTED)
    if judged is None:
        return _waiting(f"AgentTemplate {name} has not been looked at yet.")
    if judged.status == "False":
        return conditions.false(
            On.TEMPLATE_RESOLVED,
            Reason.TEMPLATE_INVALID,
            f"AgentTemplate {name} is invalid: {judged.message}",
        )
    return None if template.status.revision else _waiting(f"AgentTemplate {name} has no revision yet.")


def _waiting(message: str) -> Verdict:
    return conditions.unknown(On.TEMPLATE_RESOLVED, Reason.RECONCILING, message)


def _children(seen: Observed, site: Site, target: str | None, serving: str | None) -> Iterable[Child]:
    template = seen.spec.template_ref.name
    yield workers.service_account(seen.live, template)
    yield workers.network_policy(seen.live, template, site)
    for revision in dict.fromkeys(filter(None, (target, serving))):
        content = seen.contents.get(revision)
        if content is not None:  # a deleted template takes its revisions along; its workers stay
            yield _deployment(seen, site, revision, content)
    if seen.spec.workers.most > 1:
        yield workers.disruption_budget(seen.live, template)


def _deployment(seen: Observed, site: Site, revision: str, content: AgentTemplateSpec) -> Child:
    return workers.deployment(
        seen.live,
        seen.spec,
        revision=revision,
        template=content,
        site=site,
        replicas=seen.replicas(revision),
    )


def policies(seen: Observed, plan: Plan, grace_seconds: float) -> dict[str, Policy]:
    """Return the bounds of each revision whose workers follow the work.

    A new revision proves itself with as many workers as the present one has, with one at least. An old one
    has as many as its runs need: none while they wait for a person.
    """
    bounds = seen.spec.workers.autoscaling
    serving, coming = plan.serving, plan.target
    live = seen.deployment(serving or "")
    found: dict[str, Policy] = {}
    for revision in dict.fromkeys(filter(None, (serving, coming, *(d.revision for d in seen.deployments())))):
        content = seen.contents.get(revision)
        if content is None:
            continue  # a deleted template takes its revisions along; its workers stay as they are
        slots = content.worker.slots
        if revision not in (serving, coming):
            most = seen.spec.workers.most
            found[revision] = Policy(minimum=0, maximum=most, slots=slots, idle_seconds=grace_seconds)
        elif bounds is not None:
            low = bounds.min_replicas
            high = max(1, low, _useful(seen, content, bounds.max_replicas))
            if revision != serving:
                low = min(high, max(1, low, standing_of(live).replicas if live else 1))
            found[revision] = Policy(minimum=low, maximum=high, slots=slots, idle_seconds=bounds.idle_seconds)
    return found


def _useful(seen: Observed, content: AgentTemplateSpec, most: int) -> int:
    """Return how many of at most so many workers the limits of runs at once can keep busy."""
    asked = (limits.read(seen.spec.limits).concurrency, limits.read(content.limits).concurrency)
    runs = min((number for number in asked if number is not None), default=None)
    return most if runs is None else min(most, math.ceil(runs / content.worker.slots))


def resized(seen: Observed, plan: Plan) -> tuple[tuple[Live, int], ...]:
    """Return workers of old revisions of which there are to be more or fewer, and how many."""
    if not plan.publishes:
        return ()
    old = (d for d in seen.deployments() if d.revision not in (plan.target, plan.serving))
    chosen = ((d, seen.chosen[d.revision].replicas) for d in old if d.revision in seen.chosen)
    return tuple((d, replicas) for d, replicas in chosen if standing_of(d).replicas != replicas)


def held(
    seen: Observed, plan: Plan, contents: Mapping[str, AgentTemplateSpec], site: Site
) -> tuple[Child, ...]:
    """Return workers that are gone although runs of these revisions are open: they are made again."""
    if not plan.publishes:
        return ()
    there = {c.key for c in seen.children} | {c.key for c in plan.children}
    missing = (_deployment(seen, site, revision, content) for revision, content in sorted(contents.items()))
    return tuple(child for child in missing if child.key not in there)


def _surplus(seen: Observed, children: tuple[Child, ...]) -> tuple[Live, ...]:
    wanted: set[Key] = {child.key for child in children}
    return tuple(
        live for live in seen.children if live.key not in wanted and live.key.kind is not Kind.DEPLOYMENT
    )


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
    suffix = " It is suspended: nothing new starts." if seen.spec.suspend else ""
    verdicts = [*chain, conditions.ready(chain, "New runs are executed." if not suffix else suffix.strip())]
    verdicts += _extras(seen, plan, chain)
    verdicts += _holds(queue)
    merged = conditions.merge(seen.status.conditions, verdicts, generation=seen.live.generation, now=now)
    return AgentInstanceStatus(
        conditions=merged,
        observed_generation=seen.live.generation,
        revision=_revisions(seen, plan),
        workers=_workers(seen, plan),
    )


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
