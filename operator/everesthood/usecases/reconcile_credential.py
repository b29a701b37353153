"""Publishes one AgentCredential and shows what the gateway saw of its value."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from everesthood.apis.reasons import ConditionType, Reason
from everesthood.apis.v1alpha1.credential import AgentCredentialSpec, AgentCredentialStatus
from everesthood.domain import bindings, conditions, limits
from everesthood.domain.conditions import Verdict
from everesthood.domain.errors import Problem, Unavailable
from everesthood.domain.observed import Key, Live
from everesthood.usecases import parse
from everesthood.usecases.ports.cluster import Cluster, View
from everesthood.usecases.ports.registry import CredentialObservation, PublishedCredential
from everesthood.usecases.publish import Publisher

_POLL_SECONDS = (2.0, 30.0)
_RECORD_SECONDS = 5.0
_MESSAGES = {
    Reason.SECRET_NOT_FOUND: "There is no Secret {name} in the namespace.",
    Reason.SECRET_KEY_NOT_FOUND: "Secret {name} has no key {key}.",
    Reason.NAMESPACE_NOT_ENROLLED: "The gateway may not read Secrets in this namespace: it is not enrolled.",
}


@dataclass(slots=True, kw_only=True)
class CredentialTools:
    """What reconciling credentials needs."""

    view: View
    cluster: Cluster
    publisher: Publisher
    internal_hosts: frozenset[str]
    now: Callable[[], datetime]


async def reconcile_credential(key: Key, tools: CredentialTools) -> float | None:
    """Do what is to be done now; return after how many seconds to look again."""
    live = tools.view.get(key)
    if live is None or live.deleting:
        await tools.publisher.drop_credential(key)
        return None
    spec = parse.credential_spec(live)
    if isinstance(spec, tuple):
        await _refuse(live, spec, tools)
        return None
    problems = tuple(bindings.credential_problems(spec, tools.internal_hosts))
    if problems:
        await tools.publisher.drop_credential(key)
        await _refuse(live, problems, tools)
        return None
    return await _pursue(live, spec, tools)


async def _refuse(live: Live, problems: tuple[Problem, ...], tools: CredentialTools) -> None:
    accepted = conditions.broken(ConditionType.ACCEPTED, problems, Reason.INVALID_SPEC)
    stalled = conditions.true(ConditionType.STALLED, accepted.reason, accepted.message)
    await _tell(live, [accepted, conditions.ready([accepted]), stalled], None, tools)


async def _pursue(live: Live, spec: AgentCredentialSpec, tools: CredentialTools) -> float | None:
    accepted = conditions.true(ConditionType.ACCEPTED, Reason.ACCEPTED)
    try:
        await tools.publisher.credential(live.key, _published(live, spec))
        seen = await tools.publisher.credential_state(live.uid)
    except Unavailable:
        message = "The record of runs cannot be reached."
        ready = conditions.unknown(ConditionType.READY, Reason.RECORD_UNAVAILABLE, message)
        await _tell(live, [accepted, ready], None, tools)
        return _RECORD_SECONDS
    ready = _ready(seen, spec)
    await _tell(live, [accepted, ready], seen, tools)
    return _next_look(live, ready, tools)


def _published(live: Live, spec: AgentCredentialSpec) -> PublishedCredential:
    return PublishedCredential(
        uid=live.uid,
        namespace=live.key.namespace,
        name=live.key.name,
        generation=live.generation,
        type=spec.type,
        header=spec.header or "",
        secret_name=spec.source.secret_ref.name,
        secret_key=spec.source.secret_ref.key,
        hosts=tuple(spec.hosts),
        allowed_instances=tuple(spec.allowed_instances),
        limits=limits.read(spec.limits),
    )


def _ready(seen: CredentialObservation | None, spec: AgentCredentialSpec) -> Verdict:
    kind = ConditionType.READY
    if seen is None:
        return conditions.unknown(
            kind, Reason.CREDENTIAL_PENDING, "The gateway has not looked at the value yet."
        )
    reason = Reason(seen.reason)
    if reason is Reason.CREDENTIAL_VERIFIED:
        return conditions.true(kind, reason, "The gateway can read the value.")
    source = spec.source.secret_ref
    message = _MESSAGES.get(reason, "The gateway cannot read the value.")
    return conditions.false(kind, reason, message.format(name=source.name, key=source.key))


def _next_look(live: Live, ready: Verdict, tools: CredentialTools) -> float | None:
    """Poll only while the gateway's first look is awaited; later ones are announced."""
    if ready.reason is not Reason.CREDENTIAL_PENDING:
        return None
    written = parse.credential_status(tools.view.get(live.key) or live)
    age = conditions.age_seconds(conditions.find(written.conditions, ConditionType.READY), tools.now())
    shortest, longest = _POLL_SECONDS
    return min(longest, max(shortest, age / 5))


async def _tell(
    live: Live, verdicts: list[Verdict], seen: CredentialObservation | None, tools: CredentialTools
) -> None:
    before = parse.credential_status(live)
    changed = conditions.stamp(seen.changed_at) if seen and seen.changed_at else before.last_changed_time
    after = AgentCredentialStatus(
        conditions=conditions.merge(before.conditions, verdicts, generation=live.generation, now=tools.now()),
        observed_generation=live.generation,
        fingerprint=seen.fingerprint if seen else before.fingerprint,
        last_changed_time=changed,
    )
    if after != before:
        await tools.cluster.apply_status(live, after.model_dump(by_alias=True, exclude_none=True))
    for notice in conditions.notices(before.conditions, after.conditions):
        await tools.cluster.tell(live, notice)
