"""What the gateway knows of instances and credentials, kept in memory."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta

from everesthood.adapters.memory import limits
from everesthood.adapters.memory.record import Record
from everesthood.domain.limits import Shared
from everesthood.domain.scaling import IDLE_FIRST_SECONDS
from everesthood.usecases.ports.record import AuditEntry, WorkerSeat
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
)


class MemoryGateway:
    """The ports `GatewayStore` and `ObservationStore` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def instance(self, uid: str) -> PublishedInstance | None:
        """Return the published instance."""
        with self._record.reach():
            row = self._record.live(uid)
            return None if row is None else row.published

    async def revision(self, namespace: str, digest: str) -> PublishedRevision | None:
        """Return the content of a revision."""
        with self._record.reach():
            return self._record.revisions.get((namespace, digest))

    async def credentials(self, namespace: str, names: Collection[str]) -> Mapping[str, PublishedCredential]:
        """Return credentials by name."""
        with self._record.reach():
            known = (row.published for row in self._record.credentials.values())
            return {c.name: c for c in known if c.namespace == namespace and c.name in names}

    async def queue_ready(self, uid: str) -> bool:
        """Return whether the broker user exists."""
        with self._record.reach():
            row = self._record.live(uid)
            return row is not None and row.queue_ready

    async def hold_credential(self, namespace: str, name: str, seconds: float) -> None:
        """Hold the credential for all who bind it."""
        with self._record.reach():
            limits.hold(self._record, namespace, name, seconds)

    async def publish_limits(self, shared: Shared) -> Sequence[str]:
        """Keep what the installation allows."""
        with self._record.reach():
            return limits.publish_shared(self._record, shared)

    async def audit(self, entry: AuditEntry) -> None:
        """Keep the line."""
        with self._record.reach():
            self._record.audit.append(entry)

    async def asked_to_leave(self) -> frozenset[tuple[str, str]]:
        """Return the queues of which workers may leave."""
        with self._record.reach():
            rows = self._record.scale_ins.items()
            return frozenset(queue for queue, row in rows if row.wanted > len(row.leavers))

    async def leavers(self) -> frozenset[tuple[str, str, str]]:
        """Return the workers that leave."""
        with self._record.reach():
            rows = self._record.scale_ins.items()
            return frozenset((*queue, pod) for queue, row in rows for pod in row.leavers)

    async def offer_to_leave(self, seat: WorkerSeat, *, holds: int, claims: bool) -> bool:
        """Return whether the worker is to leave."""
        with self._record.reach():
            row = self._record.scale_ins.get((seat.instance_uid, seat.revision))
            if row is None:
                return False
            if seat.pod in row.leavers:
                row.leavers[seat.pod] = holds == 0 and not claims
                return True
            idle_first = timedelta(seconds=IDLE_FIRST_SECONDS)
            pressed = row.drains and row.asked_at < self._record.now() - idle_first
            if len(row.leavers) >= row.wanted or (holds and not pressed):
                return False
            row.leavers[seat.pod] = False
            return True

    async def credentials_due(self, older_than_seconds: float) -> Sequence[PublishedCredential]:
        """Return credentials to look at."""
        with self._record.reach():
            since = self._record.now() - timedelta(seconds=older_than_seconds)
            rows = self._record.credentials.values()
            return [r.published for r in rows if r.observed_at is None or r.observed_at < since]

    async def observe(self, uid: str, reason: str, fingerprint: str) -> None:
        """Write what was seen."""
        with self._record.reach():
            row = self._record.credentials.get(uid)
            if row is None:
                return
            row.observed_at = self._record.now()
            seen, row.seen = row.seen, self._seen(row.seen, reason, fingerprint)
            if seen != row.seen:
                self._record.registry_changed.tell(uid)

    def _seen(
        self, before: CredentialObservation | None, reason: str, fingerprint: str
    ) -> CredentialObservation:
        last = before.fingerprint if before else ""
        changed_at = before.changed_at if before else None
        if fingerprint and fingerprint != last:
            changed_at = self._record.now()
        return CredentialObservation(reason=reason, fingerprint=fingerprint or last, changed_at=changed_at)
