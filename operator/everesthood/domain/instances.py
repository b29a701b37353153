"""What an AgentInstance needs: from what is observed to children and removals.

Two pure steps, because applying children changes what is observed: `plan` says what should exist, and
`rollup` of `rollups` what to tell people once that was tried.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from everesthood.apis.reasons import ConditionType as On
from everesthood.apis.reasons import Reason
from everesthood.apis.v1alpha1.credential import AgentCredentialSpec, AgentCredentialStatus
from everesthood.apis.v1alpha1.instance import (
    AgentInstanceSpec,
    AgentInstanceStatus,
)
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, AgentTemplateStatus
from everesthood.domain import conditions, revisions, workers
from everesthood.domain.children import Child
from everesthood.domain.conditions import Verdict
from everesthood.domain.errors import Problem
from everesthood.domain.observed import Key, Kind, Live
from everesthood.domain.queues import Pause, Stop
from everesthood.domain.rollouts import Rollout, rollout_of, standing_of
from everesthood.domain.scaling import Chosen
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
