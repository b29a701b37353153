"""What the controller publishes, kept in memory."""

from collections.abc import AsyncIterator
from dataclasses import replace

from everesthood.adapters.memory import limits, schedules
from everesthood.adapters.memory.record import CredentialRow, InstanceRow, Record
from everesthood.domain.limits import credential_scope
from everesthood.domain.runs import FINAL, RunState, after_removal
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    QueueState,
)


class MemoryRegistry:
    """The port `Registry` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def publish_instance(self, instance: PublishedInstance) -> None:
        """Write the instance; an older one of the same name gives way."""
        with self._record.reach():
            known = self._record.instances.get(instance.uid)
            if known is None:
                self._replace_namesake(instance)
                self._record.instances[instance.uid] = InstanceRow(published=instance)
                self._record.queue_changed.tell(instance.uid)
            elif not known.deleted and known.published.generation <= instance.generation:
                known.published = instance
            else:
                return
            schedules.publish(self._record, instance)
            limits.publish_instance(self._record, instance)

    def _replace_namesake(self, instance: PublishedInstance) -> None:
        for uid, row in self._record.instances.items():
            other = row.published
            if (other.namespace, other.name) == (instance.namespace, instance.name) and not row.deleted:
                self._remove(uid)

    async def publish_revision(self, revision: PublishedRevision) -> None:
        """Keep the first content of a digest."""
        with self._record.reach():
            self._record.revisions.setdefault((revision.namespace, revision.digest), revision)

    async def publish_credential(self, credential: PublishedCredential) -> None:
        """Write the credential; another Secret or key is looked at anew."""
        with self._record.reach():
            row = self._record.credentials.get(credential.uid)
            if row is None:
                self._forget_namesake(credential)
                self._record.credentials[credential.uid] = CredentialRow(published=credential)
            elif row.published.generation <= credential.generation:
                if _place(row.published) != _place(credential):
                    row.seen = row.observed_at = None
                row.published = credential
            else:
                return
            limits.publish_credential(self._record, credential)

    def _forget_namesake(self, credential: PublishedCredential) -> None:
        wanted = (credential.namespace, credential.name)
        known = self._record.credentials.items()
        for uid in [uid for uid, row in known if (row.published.namespace, row.published.name) == wanted]:
            del self._record.credentials[uid]

    async def remove_instance(self, uid: str) -> None:
        """Cancel what waits, mark what runs and the instance itself."""
        with self._record.reach():
            if self._record.live(uid) is not None:
                self._remove(uid)

    def _remove(self, uid: str) -> None:
        self._record.instances[uid].deleted = True
        schedules.forget(self._record, uid)
        limits.forget(self._record, uid)
        for row in self._record.rows.values():
            becomes = after_removal(row.state) if row.request.instance_uid == uid else None
            if becomes is None:
                continue
            if becomes.state is RunState.RUNNING:
                self._record.cancel(row, becomes.reason, becomes.message)
            else:
                self._record.end(row, becomes)
        self._record.queue_changed.tell(uid)

    async def remove_credential(self, uid: str) -> None:
        """Forget the credential."""
        with self._record.reach():
            row = self._record.credentials.pop(uid, None)
            if row is not None:
                scope = credential_scope(row.published.namespace, row.published.name)
                self._record.limits.pop(scope, None)

    async def known_instances(self) -> frozenset[str]:
        """Return the uids of instances that are not deleted."""
        with self._record.reach():
            return frozenset(uid for uid, row in self._record.instances.items() if not row.deleted)

    async def known_credentials(self) -> frozenset[str]:
        """Return the uids of all credentials."""
        with self._record.reach():
            return frozenset(self._record.credentials)

    async def queue_state(self, uid: str) -> QueueState:
        """Return how far the instance's queue is."""
        with self._record.reach():
            row = self._record.instances.get(uid)
            return QueueState(
                ready=row is not None and row.queue_ready,
                open_revisions=self._open(uid),
                pause=None if row is None else row.pause,
                stop=None if row is None else self._record.stops.get(row.published.namespace),
            )

    def _open(self, uid: str) -> frozenset[str]:
        rows = (row for row in self._record.rows.values() if row.request.instance_uid == uid)
        return frozenset(row.revision for row in rows if row.revision and row.state not in FINAL)

    async def credential_state(self, uid: str) -> CredentialObservation | None:
        """Return what the gateway saw."""
        with self._record.reach():
            row = self._record.credentials.get(uid)
            return None if row is None or row.seen is None else replace(row.seen)

    def changes(self) -> AsyncIterator[str]:
        """Yield uids of instances and credentials whose state changed."""
        return self._record.registry_changed.listen()


def _place(credential: PublishedCredential) -> tuple[str, str]:
    return credential.secret_name, credential.secret_key
