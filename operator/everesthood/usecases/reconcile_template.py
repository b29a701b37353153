"""Judges one AgentTemplate, keeps its content as a revision and publishes that."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from everesthood.apis.reasons import ConditionType, Reason
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, AgentTemplateStatus
from everesthood.domain import conditions, limits, revisions, templates
from everesthood.domain.children import digest
from everesthood.domain.conditions import Verdict
from everesthood.domain.errors import Problem, Unavailable
from everesthood.domain.languages import Languages
from everesthood.domain.observed import Key, Kind, Live
from everesthood.usecases import parse
from everesthood.usecases.bring_children import Leftover, Settled, bring
from everesthood.usecases.ports.cluster import Cluster, View
from everesthood.usecases.ports.registry import PublishedRevision, PublishedTemplate
from everesthood.usecases.publish import Publisher

_LEFTOVER_SECONDS = 1.0
_RECORD_SECONDS = 5.0
_REFUSED_SECONDS = 60.0


@dataclass(slots=True, kw_only=True)
class TemplateTools:
    """What reconciling templates needs, and what it remembers between passes."""

    view: View
    cluster: Cluster
    publisher: Publisher
    languages: Languages
    internal_hosts: frozenset[str]
    now: Callable[[], datetime]
    settled: Settled = field(default_factory=Settled)
    judged: dict[str, tuple[int, tuple[Problem, ...]]] = field(default_factory=dict)
    """uid → generation and its problems: compiling every expression is the dearest part."""


async def reconcile_template(key: Key, tools: TemplateTools) -> float | None:
    """Do what is to be done now; return after how many seconds to look again."""
    live = tools.view.get(key)
    if live is None or live.deleting:
        if live is not None:
            tools.judged.pop(live.uid, None)
        await tools.publisher.drop_template(key)
        return None
    problems = _judge(live, tools)
    if problems:
        await _tell(live, _refused(problems), None, tools)
        return None
    raw = json.loads(live.content)["spec"]
    content = revisions.snapshot(live, raw)
    revision = digest(raw)
    try:
        problem = await bring(content, view=tools.view, cluster=tools.cluster, settled=tools.settled)
    except Leftover:
        return _LEFTOVER_SECONDS
    if problem is not None:
        await _tell(live, _not_kept(problem), None, tools)
        return _REFUSED_SECONDS
    try:
        await _publish(live, tools)
    except Unavailable:
        await _tell(live, _not_published(), None, tools)
        return _RECORD_SECONDS
    await _tell(live, _good(), revision, tools)
    await _prune(live, revision, tools)
    return None


def _judge(live: Live, tools: TemplateTools) -> tuple[Problem, ...]:
    known = tools.judged.get(live.uid)
    if known is not None and known[0] == live.generation:
        return known[1]
    spec = parse.template_spec(live)
    if isinstance(spec, AgentTemplateSpec):
        found = templates.problems(spec, tools.languages, tools.internal_hosts)
    else:
        found = spec
    tools.judged[live.uid] = (live.generation, found)
    return found


async def _publish(live: Live, tools: TemplateTools) -> None:
    """Put every kept revision into the record, so that a record that was restored from old catches up.

    Limits are those of the newest content, whatever revisions the instances are on.
    """
    for kept in _kept(live, tools.view):
        if not tools.publisher.has_revision(live.key.namespace, kept.revision):
            await tools.publisher.revision(
                PublishedRevision(
                    namespace=live.key.namespace,
                    digest=kept.revision,
                    template=live.key.name,
                    spec=revisions.content(kept),
                )
            )
    spec = parse.template_spec(live)
    await tools.publisher.template(
        live.key,
        PublishedTemplate(
            uid=live.uid,
            namespace=live.key.namespace,
            name=live.key.name,
            generation=live.generation,
            limits=limits.read(spec.limits if isinstance(spec, AgentTemplateSpec) else None),
        ),
    )


async def _prune(live: Live, newest: str, tools: TemplateTools) -> None:
    kept = _kept(live, tools.view)
    if len(kept) <= revisions.HISTORY:
        return
    for revision in revisions.superfluous(kept, {newest, *_in_use(live, tools.view)}):
        await tools.cluster.delete(revision)


def _in_use(live: Live, view: View) -> set[str]:
    """Return the revisions that instances want, run or still hold workers of."""
    used: set[str] = set()
    for key in view.referrers(live.key):
        instance = view.get(key)
        if instance is None:
            continue
        status, spec = parse.instance_status(instance).revision, parse.instance_spec(instance)
        used |= {r for r in (status.desired, status.current, status.last_good) if r}
        used |= {child.revision for child in view.owned_by(instance.uid) if child.revision}
        pin = None if isinstance(spec, tuple) else spec.revision
        if pin:
            used |= {r.revision for r in _kept(live, view) if r.revision.startswith(pin)}
    return used


def _kept(live: Live, view: View) -> tuple[Live, ...]:
    return tuple(r for r in view.owned_by(live.uid) if r.key.kind is Kind.REVISION)


def _refused(problems: tuple[Problem, ...]) -> list[Verdict]:
    accepted = conditions.broken(ConditionType.ACCEPTED, problems, Reason.INVALID_SPEC)
    stalled = conditions.true(ConditionType.STALLED, accepted.reason, accepted.message)
    return [accepted, conditions.ready([accepted]), stalled]


def _not_kept(problem: Problem) -> list[Verdict]:
    accepted = conditions.true(ConditionType.ACCEPTED, Reason.ACCEPTED)
    kept = conditions.broken(ConditionType.READY, [problem], Reason.APPLY_REFUSED)
    return [accepted, kept, conditions.true(ConditionType.STALLED, kept.reason, kept.message)]


def _not_published() -> list[Verdict]:
    message = "The record of runs cannot be reached."
    accepted = conditions.true(ConditionType.ACCEPTED, Reason.ACCEPTED)
    ready = conditions.unknown(ConditionType.READY, Reason.RECORD_UNAVAILABLE, message)
    return [accepted, ready, conditions.true(ConditionType.RECONCILING, Reason.RECONCILING, message)]


def _good() -> list[Verdict]:
    accepted = conditions.true(ConditionType.ACCEPTED, Reason.ACCEPTED)
    return [accepted, conditions.ready([accepted], "Instances can use it.")]


async def _tell(live: Live, verdicts: list[Verdict], revision: str | None, tools: TemplateTools) -> None:
    before = parse.template_status(live)
    after = AgentTemplateStatus(
        conditions=conditions.merge(before.conditions, verdicts, generation=live.generation, now=tools.now()),
        observed_generation=live.generation,
        revision=revision or before.revision,
        instances=len(tools.view.referrers(live.key)),
    )
    if after != before:
        await tools.cluster.apply_status(live, after.model_dump(by_alias=True, exclude_none=True))
    for notice in conditions.notices(before.conditions, after.conditions):
        await tools.cluster.tell(live, notice)
