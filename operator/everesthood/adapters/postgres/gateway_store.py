"""What the gateway knows of instances, revisions and credentials."""

import json
from collections.abc import Collection, Mapping, Sequence

from everesthood.adapters.postgres import limits, rows
from everesthood.adapters.postgres.listen import REGISTRY
from everesthood.adapters.postgres.pool import Database
from everesthood.domain.limits import Shared
from everesthood.domain.scaling import IDLE_FIRST_SECONDS
from everesthood.usecases.ports.record import AuditEntry, WorkerSeat
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedRevision


class PostgresGateway:
    """The ports `GatewayStore` and `ObservationStore`."""

    def __init__(self, database: Database) -> None:
        """Use the process's pool."""
        self._database = database

    async def instance(self, uid: str) -> PublishedInstance | None:
        """Return the published instance."""
        row = await self._database.row("instance", uid)
        if row is None:
            return None
        kept = dict(row) | {"config": row["config"].encode(), "bindings": json.loads(row["bindings"])}
        return PublishedInstance(**kept)

    async def revision(self, namespace: str, digest: str) -> PublishedRevision | None:
        """Return the content of a revision."""
        row = await self._database.row("revision", namespace, digest)
        return None if row is None else PublishedRevision(**(dict(row) | {"spec": row["spec"].encode()}))

    async def credentials(self, namespace: str, names: Collection[str]) -> Mapping[str, PublishedCredential]:
        """Return credentials by name."""
        found = await self._database.fetch("credentials", namespace, list(names))
        return {row["name"]: rows.credential(row) for row in found}

    async def queue_ready(self, uid: str) -> bool:
        """Return whether the broker user exists."""
        row = await self._database.row("is_queue_ready", uid)
        return row is not None and row["queue_ready"]

    async def hold_credential(self, namespace: str, name: str, seconds: float) -> None:
        """Hold the credential for all who bind it."""
        await self._database.fetch("hold_credential", namespace, name, seconds)

    async def publish_limits(self, shared: Shared) -> Sequence[str]:
        """Write what the installation allows."""
        return await limits.publish_shared(self._database, shared)

    async def audit(self, entry: AuditEntry) -> None:
        """Write one line of the audit log."""
        await self._database.fetch(
            "audit", entry.namespace, entry.actor, entry.action, entry.target, entry.request_id
        )

    async def asked_to_leave(self) -> frozenset[tuple[str, str]]:
        """Return the queues of which workers may leave."""
        found = await self._database.fetch("asked_to_leave")
        return frozenset((row["instance_uid"], row["revision"]) for row in found)

    async def leavers(self) -> frozenset[tuple[str, str, str]]:
        """Return the workers that leave."""
        found = await self._database.fetch("leavers")
        return frozenset((row["instance_uid"], row["revision"], row["pod"]) for row in found)

    async def offer_to_leave(self, seat: WorkerSeat, *, holds: int, claims: bool) -> bool:
        """Return whether the worker is to leave."""
        queue = (seat.instance_uid, seat.revision, seat.pod)
        row = await self._database.row("offer_to_leave", *queue, holds, not claims, IDLE_FIRST_SECONDS)
        return row is not None and row["leaves"]

    async def credentials_due(self, older_than_seconds: float) -> Sequence[PublishedCredential]:
        """Return credentials to look at."""
        found = await self._database.fetch("credentials_due", older_than_seconds)
        return [rows.credential(row) for row in found]

    async def observe(self, uid: str, reason: str, fingerprint: str) -> None:
        """Write what was seen and tell the controller of a change."""
        row = await self._database.row("observe", uid, reason, fingerprint)
        if row is not None and row["changed"]:
            await self._database.notify(REGISTRY, uid)
