"""Brings one AgentInstance to what it asks for: observe, plan, publish, apply, tell."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from everesthood.apis import names
from everesthood.apis.reasons import ConditionType, Reason
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec, AgentInstanceStatus
from everesthood.apis.v1alpha1.template import AgentTemplateSpec
from everesthood.domain import (
    bindings,
    conditions,
    instances,
    limits,
    rollouts,
    rollups,
    schedules,
    sizes,
    workers,
)
from everesthood.domain.children import canonical
from everesthood.domain.conditions import Notice
from everesthood.domain.errors import Problem, Unavailable
from everesthood.domain.instances import Credential, Observed, Plan, Queue, Template
from everesthood.domain.languages import Languages
from everesthood.domain.observed import Key, Kind, Live
from everesthood.usecases import parse
from everesthood.usecases.bring_children import Leftover, Settled, bring
from everesthood.usecases.ports.cluster import Cluster, View
from everesthood.usecases.ports.registry import PublishedInstance
from everesthood.usecases.publish import Publisher
from everesthood.usecases.scale_workers import Scaled, ScaleWorkers

_DRAIN_SECONDS = 5.0
_WAITING_SECONDS = 60.0
_LEFTOVER_SECONDS = 1.0
_REFUSED_SECONDS = 60.0
_POLL_SECONDS = (2.0, 30.0)


@dataclass(slots=True, kw_only=True)
class InstanceTools:
    """What reconciling instances needs, and what it remembers between passes."""

    view: View
    cluster: Cluster
    publisher: Publisher
    languages: Languages
    internal_hosts: frozenset[str]
    site: workers.Site
    scale: ScaleWorkers
    now: Callable[[], datetime]
    settled: Settled = field(default_factory=Settled)
    idle_since: dict[str, datetime] = field(default_factory=dict)
    """uid of a Deployment that nothing needs any more → since when."""


async def reconcile_instance(key: Key, tools: InstanceTools) -> float | None:
    """Do what is to be done now; return after how many seconds to look again."""
    live = tools.view.get(key)
    if live is None:
        await tools.publisher.drop_instance(key)
        return None
    if live.deleting:
        return await _finalize(live, tools)
    status = parse.instance_status(live)
    spec = parse.instance_spec(live)
    if not isinstance(spec, AgentInstanceSpec):
        await _refuse(live, status, spec, tools)
        return None
    return await _pursue(observe(live, spec, status, tools), tools)


async def _finalize(live: Live, tools: InstanceTools) -> float | None:
    """Take the instance out of the record, then let it go."""
    tools.scale.watch.forget(live.uid)
    for child in tools.view.owned_by(live.uid):
        tools.idle_since.pop(child.uid, None)
    if names.FINALIZER not in live.finalizers:
        return None
    try:
        await tools.publisher.drop_instance(live.key, live.uid)
    except Unavailable:
        if live.annotations.get(names.ANNOTATION_SKIP_CLEANUP) != "true":
            raise
    await tools.cluster.release(live)
    return None


async def _refuse(
    live: Live, status: AgentInstanceStatus, problems: tuple[Problem, ...], tools: InstanceTools
) -> None:
    """Say what is wrong with a spec that cannot be read; everything else stays as it is."""
    accepted = conditions.broken(ConditionType.ACCEPTED, problems, Reason.INVALID_SPEC)
    verdicts = [accepted, conditions.ready([accepted])]
    verdicts.append(conditions.true(ConditionType.STALLED, accepted.reason, accepted.message))
    merged = conditions.merge(status.conditions, verdicts, generation=live.generation, now=tools.now())
    wanted = status.model_copy(update={"conditions": merged, "observed_generation": live.generation})
    await _tell(live, status, wanted, (), tools)


def observe(
    live: Live, spec: AgentInstanceSpec, status: AgentInstanceStatus, tools: InstanceTools
) -> Observed:
    """Gather everything that is known about the instance, from the view alone."""
    template = _template(live, spec, tools.view)
    children = tuple(tools.view.owned_by(live.uid))
    deployments = [c for c in children if c.key.kind is Kind.DEPLOYMENT]
    wanted = instances.relevant_revisions(status, instances.desired_revision(spec, template), deployments)
    newest = {template.status.revision} if template and template.status.revision else set()
    contents = _contents(template, wanted | newest)
    return Observed(
        live=live,
        spec=spec,
        status=status,
        template=template,
        contents=contents,
        problems=_problems(spec, contents, tools.languages),
        credentials=_credentials(live, spec, _judged_by(template, contents, spec), tools.view),
        children=children,
    )


def _contents(template: Template | None, wanted: frozenset[str]) -> dict[str, AgentTemplateSpec]:
    """Return the contents of those revisions that are kept and can be read."""
    kept = template.revisions if template else ()
    parsed = {r.revision: parse.template_content(r.content) for r in kept if r.revision in wanted}
    return {revision: content for revision, content in parsed.items() if content is not None}


def _template(live: Live, spec: AgentInstanceSpec, view: View) -> Template | None:
    found = view.get(Key(Kind.TEMPLATE, live.key.namespace, spec.template_ref.name))
    if found is None or found.deleting:
        return None
    kept = tuple(r for r in view.owned_by(found.uid) if r.key.kind is Kind.REVISION)
    return Template(live=found, status=parse.template_status(found), revisions=kept)


def _judged_by(
    template: Template | None, contents: Mapping[str, AgentTemplateSpec], spec: AgentInstanceSpec
) -> AgentTemplateSpec | None:
    return contents.get(instances.desired_revision(spec, template) or "")


def _problems(
    spec: AgentInstanceSpec, contents: Mapping[str, AgentTemplateSpec], languages: Languages
) -> dict[str, tuple[Problem, ...]]:
    """Judge the instance against each revision; a missing binding is for CredentialsReady to say."""
    own = tuple(bindings.instance_problems(spec))
    # The rule for admission passes over pinned instances, because it cannot see old revisions.
    followed = spec.model_copy(update={"update_policy": "Automatic"})
    found = {"": own}
    for revision, content in contents.items():
        against = bindings.template_problems(followed, content, languages)
        found[revision] = own + tuple(p for p in against if p.reason is not Reason.CREDENTIAL_NOT_BOUND)
    return found


def _credentials(
    live: Live, spec: AgentInstanceSpec, template: AgentTemplateSpec | None, view: View
) -> dict[str, Credential]:
    found: dict[str, Credential] = {}
    for name in {b.credential_ref.name for b in spec.credentials}:
        credential = view.get(Key(Kind.CREDENTIAL, live.key.namespace, name))
        parsed = parse.credential_spec(credential) if credential and not credential.deleting else None
        if credential is None or parsed is None or isinstance(parsed, tuple):
            continue
        refusals = bindings.binding_problems(live.key.name, spec, template, {name: parsed})
        found[name] = Credential(
            spec=parsed,
            status=parse.credential_status(credential),
            refusals=tuple(p.message for p in refusals),
        )
    return found


async def _pursue(seen: Observed, tools: InstanceTools) -> float | None:
    plan = instances.plan(seen, tools.site)
    if plan.publishes and not seen.children and await _begin(seen, plan, tools):
        return 0.0
    scaled = await tools.scale(seen, plan) if plan.publishes else Scaled()
    before, seen = seen, replace(seen, chosen=scaled.chosen)
    if any(seen.replicas(revision) != before.replicas(revision) for revision in scaled.chosen):
        plan = instances.plan(seen, tools.site)
    queue = await _publish(seen, plan, tools)
    try:
        refused, gone = await _commit(seen, plan, queue, tools)
    except Leftover:
        return _LEFTOVER_SECONDS
    await tools.scale.forget(seen, scaled)
    news = (*_changes(seen), *_news(plan, gone))
    seen = replace(seen, children=tuple(tools.view.owned_by(seen.live.uid)))
    status = rollups.rollup(seen, plan, queue, refused=refused, now=tools.now())
    await _tell(seen.live, seen.status, status, news, tools)
    return _next_look(seen, plan, queue, refused=refused, status=status, now=tools.now())


async def _begin(seen: Observed, plan: Plan, tools: InstanceTools) -> bool:
    """Make the first children of an instance, so that telling of it waits behind the children of others.

    Return whether that led anywhere; if not, the usual pass says why.
    """
    with suppress(Leftover):
        for child in plan.children:
            await bring(child, view=tools.view, cluster=tools.cluster, settled=tools.settled)
    return bool(tools.view.owned_by(seen.live.uid))


async def _publish(seen: Observed, plan: Plan, tools: InstanceTools) -> Queue:
    """Put the instance into the record, behind its finalizer; an unreachable record stops nothing else."""
    if not plan.publishes:
        return await tools.publisher.queue(seen.live.uid, fresh=False)
    if names.FINALIZER not in seen.live.finalizers:
        await tools.cluster.hold(seen.live)
    try:
        wanted = _published(seen, plan, tools.scale.watch.quiet(seen.live.uid))
        if await tools.publisher.instance(seen.live.key, wanted) and wanted.quiet:
            # Work that was accepted before nobody told of; what comes from now on is told.
            await tools.scale.watch.look({seen.live.uid})
    except Unavailable:
        return Queue(reached=False)
    busy = len(seen.deployments()) > 1 or plan.rollout.switched
    return await tools.publisher.queue(seen.live.uid, fresh=busy)


def _published(seen: Observed, plan: Plan, quiet: tuple[str, ...]) -> PublishedInstance:
    return PublishedInstance(
        uid=seen.live.uid,
        namespace=seen.live.key.namespace,
        name=seen.live.key.name,
        generation=seen.live.generation,
        template=seen.spec.template_ref.name,
        service_account=workers.base_name(seen.live),
        current_revision=plan.serving,
        config=canonical(seen.spec.config),
        bindings={b.slot: b.credential_ref.name for b in seen.spec.credentials},
        suspended=seen.spec.suspend,
        schedules=schedules.read(seen.spec.schedules),
        limits=limits.read(seen.spec.limits),
        quiet=quiet,
    )


async def _commit(
    seen: Observed, plan: Plan, queue: Queue, tools: InstanceTools
) -> tuple[tuple[Problem, ...], tuple[Live, ...]]:
    """Apply what differs and remove what nothing needs; return refusals and what was removed."""
    needed = _contents(seen.template, queue.open_revisions)
    wanted = (*plan.children, *instances.held(seen, plan, needed, tools.site))
    found = [
        await bring(child, view=tools.view, cluster=tools.cluster, settled=tools.settled) for child in wanted
    ]
    for live, replicas in sizes.resized(seen, plan):
        await tools.cluster.resize(live, replicas)
    refused = tuple(problem for problem in found if problem is not None)
    gone = _rested(instances.drained(seen, plan, queue), seen, tools)
    for live in (*plan.surplus, *gone):
        await tools.cluster.delete(live)
    return refused, gone


def _rested(idle: Sequence[Live], seen: Observed, tools: InstanceTools) -> tuple[Live, ...]:
    """Return the idle workers that have been so for a grace period: claims under way have landed by then."""
    now = tools.now()
    idle_uids = {d.uid for d in idle}
    for deployment in seen.deployments():
        if deployment.uid not in idle_uids:
            tools.idle_since.pop(deployment.uid, None)
    rested = [
        d
        for d in idle
        if (now - tools.idle_since.setdefault(d.uid, now)).total_seconds() >= tools.site.grace_seconds
    ]
    for deployment in rested:
        tools.idle_since.pop(deployment.uid, None)
    return tuple(rested)


def _changes(seen: Observed) -> Iterator[Notice]:
    """Yield how many workers there are now of each revision, where that changes."""
    for revision, chosen in seen.chosen.items():
        live = seen.deployment(revision)
        before = rollouts.standing_of(live).replicas if live else chosen.replicas
        if chosen.replicas != before:
            grows = chosen.replicas > before
            message = f"From {before} to {chosen.replicas} workers of revision {revision}: {chosen.reason}."
            yield Notice(
                type="Normal", reason=Reason.SCALED_OUT if grows else Reason.SCALED_IN, message=message
            )


def _news(plan: Plan, gone: Sequence[Live]) -> tuple[Notice, ...]:
    news = [
        Notice(
            type="Normal",
            reason=Reason.DRAINED,
            message=f"Revision {d.revision} had no runs left and was removed.",
        )
        for d in gone
    ]
    if plan.rollout.switched:
        message = f"Revision {plan.serving} took over; the earlier one finishes what it holds."
        news.append(Notice(type="Normal", reason=Reason.ROLLED_OUT, message=message))
    return tuple(news)


async def _tell(
    live: Live,
    before: AgentInstanceStatus,
    after: AgentInstanceStatus,
    news: tuple[Notice, ...],
    tools: InstanceTools,
) -> None:
    """Write the status if it differs, and Events for what people should read."""
    if after != before:
        await tools.cluster.apply_status(live, after.model_dump(by_alias=True, exclude_none=True))
    for notice in (*news, *conditions.notices(before.conditions, after.conditions)):
        await tools.cluster.tell(live, notice)


def _next_look(
    seen: Observed,
    plan: Plan,
    queue: Queue,
    *,
    refused: tuple[Problem, ...],
    status: AgentInstanceStatus,
    now: datetime,
) -> float | None:
    """Return when to look again although nothing was heard; None while every change is announced."""
    looks: list[float] = []
    if refused:
        looks.append(_REFUSED_SECONDS)
    if plan.publishes and not queue.ready:
        shortest, longest = _POLL_SECONDS
        age = conditions.age_seconds(conditions.find(status.conditions, ConditionType.QUEUE_READY), now)
        looks.append(min(longest, max(shortest, age / 5)))
    elif plan.publishes:
        old = [d for d in seen.deployments() if d.revision not in (plan.target, plan.serving)]
        if old:
            at_work = any(rollouts.standing_of(d).replicas for d in old)
            looks.append(_DRAIN_SECONDS if at_work else _WAITING_SECONDS)
    return min(looks, default=None)
