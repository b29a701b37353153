"""Limits in memory: published with what they belong to, asked at each claim."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

from everesthood.adapters.memory.record import InstanceRow, LimitRow, Record, RunRow
from everesthood.domain.limits import (
    ANY_ORGANIZATION,
    ORGANIZATION,
    PLATFORM,
    UNLIMITED,
    WAITING_SECONDS,
    Candidate,
    Crowd,
    Denial,
    Gate,
    Limits,
    OrganizationLimits,
    Shared,
    allot,
    credential_scope,
    longest,
    organization_scope,
    rate_next,
    scopes,
    template_scope,
)
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedTemplate


def publish_instance(record: Record, instance: PublishedInstance) -> None:
    """Keep the limits of an instance; its organisation gets what every one may have."""
    _keep(record, f"instance/{instance.uid}", instance.limits)
    every = record.limits.get(ORGANIZATION)
    if every is not None:
        mine = LimitRow(limits=every.limits, weight=every.weight)
        record.limits.setdefault(organization_scope(instance.namespace), mine)


def publish_template(record: Record, template: PublishedTemplate) -> None:
    """Keep the limits of a template."""
    _keep(record, template_scope(template.namespace, template.name), template.limits)


def publish_credential(record: Record, credential: PublishedCredential) -> None:
    """Keep the limits of a credential; a hold stays."""
    _keep(record, credential_scope(credential.namespace, credential.name), credential.limits)


def publish_shared(record: Record, shared: Shared) -> list[str]:
    """Keep what the installation allows; return what changed."""
    namespaces = {row.published.namespace for row in record.instances.values() if not row.deleted}
    named = dict.fromkeys(namespaces, shared.organization) | dict(shared.organizations)
    wanted: dict[str, OrganizationLimits | Limits] = {
        organization_scope(name): limits
        for name, limits in named.items()
        if name in shared.organizations or limits != ANY_ORGANIZATION
    }
    wanted |= {PLATFORM: shared.platform} if shared.platform != UNLIMITED else {}
    wanted |= {ORGANIZATION: shared.organization} if shared.organization != ANY_ORGANIZATION else {}
    for scope in [s for s in record.limits if s.partition("/")[0] in (PLATFORM, ORGANIZATION)]:
        if scope not in wanted:
            del record.limits[scope]
    return [scope for scope, limits in sorted(wanted.items()) if _keep(record, scope, limits)]


def _keep(record: Record, scope: str, limits: Limits) -> bool:
    """Keep a limit and return whether it is new; absent ones go, but for a hold."""
    weight = limits.weight if isinstance(limits, OrganizationLimits) else 1
    plain = Limits(concurrency=limits.concurrency, rate=limits.rate)
    row = record.limits.get(scope)
    if row is None and plain == UNLIMITED and weight == 1:
        return False
    if row is not None and (row.limits, row.weight) == (plain, weight):
        return False
    if row is None:
        row = record.limits[scope] = LimitRow()
    row.limits, row.weight = plain, weight
    return True


def forget(record: Record, uid: str) -> None:
    """Forget the limits of a deleted instance."""
    record.limits.pop(f"instance/{uid}", None)


def hold(record: Record, namespace: str, name: str, seconds: float) -> None:
    """Hold a credential; a hold is never shortened."""
    row = record.limits.setdefault(credential_scope(namespace, name), LimitRow())
    until = record.now() + timedelta(seconds=seconds)
    row.held_until = until if row.held_until is None else max(until, row.held_until)


def is_held(record: Record, instance: InstanceRow) -> bool:
    """Return whether a credential that the instance binds is held."""
    rows = (record.limits.get(scope) for scope in _scopes(instance))
    return any(row and row.held_until and row.held_until > record.now() for row in rows)


def kept_back(record: Record, uid: str) -> Denial | None:
    """Return which limit keeps the instance's runs back at this moment."""
    instance = record.instances.get(uid)
    return None if instance is None else longest(_gates(record, _scopes(instance)).values(), record.now())


def let_in(
    record: Record, instance: InstanceRow, due: Sequence[RunRow]
) -> tuple[list[RunRow], Denial | None]:
    """Return which of these due runs of an instance start, and why the next one does not."""
    mine, now, namespace = _scopes(instance), record.now(), instance.published.namespace
    gates = _gates(record, mine)
    candidates = [Candidate(run=row.request.id, queue=1, namespace=namespace, scopes=mine) for row in due]
    allotment = allot(candidates, gates, now, _crowd(record))
    for scope, starts in allotment.starts.items():
        rate = gates[scope].limits.rate if scope in gates else None
        if rate is not None:
            record.limits[scope].next_at = rate_next(rate, gates[scope].next_at, now, starts)
    record.kept_back.pop(namespace, None)
    if namespace in allotment.kept_back:
        record.kept_back[namespace] = (allotment.kept_back[namespace], now)
    started = {one.run for one in allotment.started}
    return [row for row in due if row.request.id in started], allotment.denials.get(1)


def _scopes(instance: InstanceRow) -> tuple[str, ...]:
    found = instance.published
    return scopes(found.uid, found.namespace, found.template, found.bindings.values())


def _gates(record: Record, mine: Sequence[str]) -> dict[str, Gate]:
    running: Counter[str] = Counter()
    for row in _running(record):
        instance = record.instances.get(row.request.instance_uid)
        running.update(
            _scopes(instance) if instance else (PLATFORM, organization_scope(row.request.namespace))
        )
    return {
        scope: Gate(
            scope=scope,
            limits=limit.limits,
            running=running[scope],
            next_at=limit.next_at,
            held_until=limit.held_until,
        )
        for scope in mine
        if (limit := record.limits.get(scope)) is not None
    }


def _crowd(record: Record) -> Crowd:
    since = record.now() - timedelta(seconds=WAITING_SECONDS)
    prefix = f"{ORGANIZATION}/"
    return Crowd(
        running=Counter(row.request.namespace for row in _running(record)),
        waiting={name: runs for name, (runs, at) in record.kept_back.items() if at > since},
        weights={
            scope.removeprefix(prefix): row.weight
            for scope, row in record.limits.items()
            if scope.startswith(prefix)
        },
    )


def _running(record: Record) -> list[RunRow]:
    return [row for row in record.rows.values() if row.state is RunState.RUNNING]
