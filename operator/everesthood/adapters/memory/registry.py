"""What the controller publishes, kept in memory."""

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import replace

from everesthood.adapters.memory import limits, schedules
from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.record import CredentialRow, InstanceRow, Record, RunRow, ScaleInRow
from everesthood.domain.limits import credential_scope, template_scope
from everesthood.domain.runs import FINAL, RunState, after_removal
from everesthood.domain.scaling import Demand
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
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

    async def publish_template(self, template: PublishedTemplate) -> None:
        """Write the template with its limits; an older one of the same name gives way."""
        with self._record.reach():
            known = self._record.templates
            place = (template.namespace, template.name)
            for uid in [t.uid for t in known.values() if (t.namespace, t.name) == place]:
                if uid != template.uid:
                    del known[uid]
            before = known.get(template.uid)
            if before is None or before.generation <= template.generation:
                known[template.uid] = template
                limits.publish_template(self._record, template)

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
        removed = []
        for row in self._record.rows.values():
            becomes = after_removal(row.state) if row.request.instance_uid == uid else None
            if becomes is None:
                continue
            removed.append(row.request.id)
            if becomes.state is RunState.RUNNING:
                self._record.cancel(row, becomes.reason, becomes.message)
            else:
                self._record.end(row, becomes)
        cancel_child_runs(self._record, removed)
        self._record.queue_changed.tell(uid)

    async def remove_template(self, uid: str) -> None:
        """Forget the template's limits."""
        with self._record.reach():
            gone = self._record.templates.pop(uid, None)
            if gone is not None:
                self._record.limits.pop(template_scope(gone.namespace, gone.name), None)

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

    async def known_templates(self) -> frozenset[str]:
        """Return the uids of all templates."""
        with self._record.reach():
            return frozenset(self._record.templates)

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

    async def demand(self, most: Mapping[str, int]) -> Mapping[str, Mapping[str, Demand]]:
        """Return what there is to do, by revision."""
        with self._record.reach():
            return {uid: self._demand(uid, count) for uid, count in most.items() if self._record.live(uid)}

    def _demand(self, uid: str, most: int) -> dict[str, Demand]:
        runs: defaultdict[tuple[str, RunState], list[RunRow]] = defaultdict(list)
        for row in self._record.rows.values():
            revision = self._revision_of(row, uid)
            if revision is not None:
                runs[revision, row.state].append(row)
        scale_ins = {rev: row for (of, rev), row in self._record.scale_ins.items() if of == uid}
        now = self._record.now()
        found = {}
        for revision in {revision for revision, _ in runs} | set(scale_ins):
            due = [row.due_at for row in runs[revision, RunState.QUEUED]][:most]
            scale_in = scale_ins.get(revision) or ScaleInRow(asked_at=now)
            found[revision] = Demand(
                due=len(due),
                oldest_seconds=max(0.0, (now - min(due)).total_seconds()) if due else 0.0,
                running=len(runs[revision, RunState.RUNNING]),
                waiting=len(runs[revision, RunState.WAITING]),
                leaving=tuple(sorted(scale_in.leavers)),
                left=tuple(sorted(pod for pod, left in scale_in.leavers.items() if left)),
                asked=scale_in.wanted,
                drains=scale_in.drains,
            )
        return found

    def _revision_of(self, row: RunRow, uid: str) -> str | None:
        """Return whose workers a run is for now; None if it is over, not due or another instance's."""
        instance = self._record.instances[uid]
        now, published = self._record.now(), instance.published
        if row.request.instance_uid != uid or row.state in FINAL:
            return None
        if row.state is RunState.QUEUED:
            if row.due_at > now or row.has_waited_too_long(now) or not self._record.hands_out(instance):
                return None
            return row.revision or (None if published.suspended else published.current_revision)
        return row.revision

    async def ask_to_leave(self, uid: str, revision: str, count: int, *, drain: bool) -> None:
        """Say how many workers may leave."""
        with self._record.reach():
            if self._record.live(uid) is None:
                return
            now = self._record.now()
            row = self._record.scale_ins.setdefault((uid, revision), ScaleInRow(asked_at=now))
            if row.wanted <= len(row.leavers) or row.drains != drain:
                row.asked_at = now
            row.wanted, row.drains = count, drain

    async def forget_leavers(self, uid: str, revision: str, pods: Collection[str]) -> None:
        """Forget workers that are gone."""
        with self._record.reach():
            row = self._record.scale_ins.get((uid, revision))
            for pod in pods:
                if row is not None and row.leavers.pop(pod, None) is not None:
                    row.wanted = max(0, row.wanted - 1)

    def demanded(self) -> AsyncIterator[str]:
        """Yield uids of instances that have work for a quiet revision."""
        return self._record.demanded.listen()


def _place(credential: PublishedCredential) -> tuple[str, str]:
    return credential.secret_name, credential.secret_key
