"""Limits in tables: what is published of them, and claims, one transaction at a time for each limit.

A count must see what the holder of the lock before has committed, so locks are a statement by themselves.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from everesthood.adapters.postgres.pool import Connection, Database, Row, again, sql
from everesthood.domain.limits import (
    ANY_ORGANIZATION,
    ORGANIZATION,
    PLATFORM,
    UNLIMITED,
    WAITING_SECONDS,
    Allotment,
    Candidate,
    Crowd,
    Denial,
    Gate,
    Limits,
    Rate,
    Shared,
    allot,
    credential_scope,
    organization_scope,
    rate_next,
    template_scope,
)
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedTemplate

Queue = tuple[str, str]
"""Instance uid and revision."""
_COUNTED_EVERYWHERE: Final = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What limited queues got."""

    started: Mapping[Queue, list[Row]] = field(default_factory=dict)
    denials: Mapping[Queue, Denial] = field(default_factory=dict)


class LimitedClaims:
    """Claims runs of queues that something limits."""

    def __init__(self, database: Database, *, lease_seconds: int) -> None:
        """Use the process's pool."""
        self._database = database
        self._lease_seconds = lease_seconds

    async def claim(self, wants: Mapping[Queue, int]) -> Claims:
        """Start as many due runs of each queue as it wants and its limits allow."""

        async def once() -> Claims:
            async with self._database.transaction() as connection:
                return await self._claim(connection, wants)

        return await again(once)

    async def _claim(self, connection: Connection, wants: Mapping[Queue, int]) -> Claims:
        queues = list(wants)
        locked = await connection.fetch(sql("lock_limits"), [uid for uid, _ in queues])
        found = await connection.fetch(
            sql("candidates"), [uid for uid, _ in queues], [rev for _, rev in queues], list(wants.values())
        )
        if not found:
            return Claims()
        candidates, now = [_candidate(row) for row in found], found[0]["now"]
        counts = await _counts(connection, locked, candidates)
        gates = {row["scope"]: gate(row, counts.scopes[row["scope"]]) for row in locked}
        crowd = await _crowd(connection, counts) if PLATFORM in gates else None
        allotment = allot(candidates, gates, now, crowd)
        rows = await self._start(connection, allotment, queues)
        await _spend(connection, gates, allotment, now)
        if crowd is not None:
            await _keep_back(connection, candidates, crowd, allotment)
        started: dict[Queue, list[Row]] = defaultdict(list)
        for row in rows:
            started[queues[row["k"] - 1]].append(row)
        denials = {queues[k - 1]: denial for k, denial in allotment.denials.items()}
        return Claims(started=started, denials=denials)

    async def _start(
        self, connection: Connection, allotment: Allotment, queues: Sequence[Queue]
    ) -> Sequence[Row]:
        chosen = allotment.started
        if not chosen:
            return []
        rows: Sequence[Row] = await connection.fetch(
            sql("start"),
            [one.run for one in chosen],
            [one.queue for one in chosen],
            [queues[one.queue - 1][1] for one in chosen],
            self._lease_seconds,
        )
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Running runs, by what counts them and by organisation."""

    scopes: Counter[str]
    namespaces: Counter[str]


async def _counts(connection: Connection, locked: Sequence[Row], candidates: Sequence[Candidate]) -> _Counts:
    by_scope: Counter[str] = Counter()
    by_namespace: Counter[str] = Counter()
    capped = [row["scope"] for row in locked if row["concurrency"] is not None]
    if capped:
        namespaces = sorted({one.namespace for one in candidates})
        of = _COUNTED_EVERYWHERE if PLATFORM in capped else namespaces
        for row in await connection.fetch(sql("running"), of):
            by_namespace[row["namespace"]] += row["runs"]
            for scope in row["scopes"] or (PLATFORM, organization_scope(row["namespace"])):
                by_scope[scope] += row["runs"]
    return _Counts(scopes=by_scope, namespaces=by_namespace)


async def _crowd(connection: Connection, counts: _Counts) -> Crowd:
    found = await connection.fetch(sql("crowd"), WAITING_SECONDS)
    return Crowd(
        running=counts.namespaces,
        waiting={row["namespace"]: row["runs"] for row in found if row["runs"] is not None},
        weights={row["namespace"]: row["weight"] for row in found if row["weight"] is not None},
    )


async def _spend(
    connection: Connection, gates: Mapping[str, Gate], allotment: Allotment, now: datetime
) -> None:
    spent = [
        (scope, rate_next(found.limits.rate, found.next_at, now, starts))
        for scope, starts in sorted(allotment.starts.items())
        if (found := gates.get(scope)) is not None and found.limits.rate is not None
    ]
    if spent:
        await connection.execute(sql("spend"), [scope for scope, _ in spent], [at for _, at in spent])


async def _keep_back(
    connection: Connection, candidates: Sequence[Candidate], crowd: Crowd, allotment: Allotment
) -> None:
    """Note who waits for a place of the platform's, and who no longer does."""
    told = {
        name: allotment.kept_back.get(name, 0)
        for name in sorted({one.namespace for one in candidates})
        if name in allotment.kept_back or name in crowd.waiting
    }
    if told:
        await connection.execute(sql("keep_back"), list(told), list(told.values()))


def _candidate(row: Row) -> Candidate:
    return Candidate(run=row["id"], queue=row["k"], namespace=row["namespace"], scopes=tuple(row["scopes"]))


def gate(row: Row, running: int) -> Gate:
    """Return the limit of a row."""
    rate = None
    if row["runs"] is not None:
        rate = Rate(runs=row["runs"], period_seconds=row["period_seconds"], burst=row["burst"])
    return Gate(
        scope=row["scope"],
        limits=Limits(concurrency=row["concurrency"], rate=rate),
        running=running,
        next_at=row["next_at"],
        held_until=row["held_until"],
    )


async def gates_of(
    database: Database, instance_uid: str, namespace: str
) -> tuple[list[Gate], datetime | None]:
    """Return what limits an instance, as it stands now, and which moment that is."""
    found = await database.fetch("gates", instance_uid)
    if not found:
        return [], None
    running: Counter[str] = Counter()
    if any(row["concurrency"] is not None for row in found):
        of = _COUNTED_EVERYWHERE if any(row["scope"] == PLATFORM for row in found) else [namespace]
        for row in await database.fetch("running", of):
            for scope in row["scopes"] or (PLATFORM, organization_scope(row["namespace"])):
                running[scope] += row["runs"]
    return [gate(row, running[row["scope"]]) for row in found], found[0]["now"]


# --- what is published ------------------------------------------------------------------------


async def publish_instance(connection: Connection, instance: PublishedInstance) -> None:
    """Write the limits of an instance that was just published, as far as they differ."""
    told = _columns({f"instance/{instance.uid}": instance.limits})
    changed = await connection.fetch(sql("publish_limits"), instance.uid, instance.generation, *told)
    changed += await connection.fetch(sql("organization_limit"), instance.namespace)
    await _count_running(connection, changed)


async def publish_template(connection: Connection, template: PublishedTemplate) -> None:
    """Write the limits of a template that was just published, as far as they differ."""
    told = _columns({template_scope(template.namespace, template.name): template.limits})
    changed = await connection.fetch(sql("publish_limits"), template.uid, template.generation, *told)
    await _count_running(connection, changed)


async def publish_credential(connection: Connection, credential: PublishedCredential) -> None:
    """Write the limits of a credential that was just published, as far as they differ."""
    scope = credential_scope(credential.namespace, credential.name)
    values = [column[0] for column in _columns({scope: credential.limits})]
    changed = await connection.fetch(
        sql("publish_credential_limits"), credential.uid, credential.generation, *values
    )
    await _count_running(connection, changed)


async def publish_shared(database: Database, shared: Shared) -> Sequence[str]:
    """Write what the installation allows, as far as it differs; return what changed."""
    told: dict[str, Limits] = {}
    weights: dict[str, int] = {}
    if shared.platform != UNLIMITED:
        told[PLATFORM] = shared.platform
    named = {ORGANIZATION: shared.organization}
    named |= {organization_scope(name): limits for name, limits in shared.organizations.items()}
    for scope, limits in named.items():
        if scope != ORGANIZATION or limits != ANY_ORGANIZATION:
            told[scope], weights[scope] = limits, limits.weight

    async def once() -> Sequence[str]:
        async with database.transaction() as connection:
            weight = [weights.get(scope, 1) for scope in sorted(told)]
            changed = await connection.fetch(sql("publish_shared"), *_columns(told), weight)
            await _count_running(connection, changed)
            return [row["scope"] for row in changed]

    return await again(once)


async def _count_running(connection: Connection, changed: Iterable[Row]) -> None:
    scopes = [row["scope"] for row in changed if row["scope"] != ORGANIZATION]
    if scopes:
        await connection.execute(sql("count_running"), scopes)


def _columns(told: Mapping[str, Limits]) -> list[list[object]]:
    """Return limits column by column."""
    table = [(scope, limits.concurrency, *_rate(limits.rate)) for scope, limits in sorted(told.items())]
    return [list(column) for column in zip(*table, strict=True)] if table else [[], [], [], [], []]


def _rate(rate: Rate | None) -> tuple[int | None, int | None, int | None]:
    return (None, None, None) if rate is None else (rate.runs, rate.period_seconds, rate.burst)
