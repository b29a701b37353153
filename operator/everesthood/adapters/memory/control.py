"""What people decide about runs, queues and organisations, kept in memory."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import msgspec

from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.record import ApprovalRow, InstanceRow, Record, RunRow
from everesthood.apis.reasons import Reason
from everesthood.domain.approvals import Decision, Question, Settled, settle
from everesthood.domain.doubts import Resolution, resolve
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.queues import Pause, QueueView, Stop
from everesthood.domain.runs import RunId, RunState
from everesthood.usecases.ports.control import Actor, Ring, run_target
from everesthood.usecases.ports.record import AuditEntry, StoredStep


class MemoryControl:
    """The port `ControlStore` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def decide(self, said: Decision) -> Sequence[Ring]:
        """Answer a question of a run."""
        with self._record.reach():
            row = self._run(said.namespace, said.run)
            asked = row.approvals.get(said.step)
            if asked is None:
                raise NotFound(f"Run {said.run} asks nothing in {said.step!r}.", Reason.APPROVAL_NOT_FOUND)
            question = Question(
                run_state=row.state,
                deadline_at=asked.open.deadline_at,
                on_reject=asked.on_reject,
                verdict=asked.verdict,
                decided_by=asked.decided_by,
            )
            settled = settle(question, said, self._record.now())
            if settled is None:
                return []
            answer(self._record, row, asked, settled, by=said.actor)
            action = "run.approve" if said.approved else "run.reject"
            self._audit(said.namespace, said.actor, action, run_target(said.run, said.step), said.request_id)
            return self._rings_at(row.request.instance_uid)

    async def resolve(self, said: Resolution) -> Sequence[Ring]:
        """Let an ambiguous run go on, or end it."""
        with self._record.reach():
            row = self._run(said.namespace, said.run)
            doubts = [step.name for step in row.steps.values() if step.state == "started"]
            resolved = resolve(row.state, doubts, said)
            if said.answer != "giveUp" and self._record.live(row.request.instance_uid) is None:
                raise Conflict(
                    "The AgentInstance was deleted; the run cannot go on.", Reason.INSTANCE_DELETED
                )
            for name in resolved.forgotten:
                del row.steps[name]
            if resolved.done is not None:
                self._mark_done(row, resolved.done, said.output)
            self._go_on(row, resolved.becomes.state)
            row.reason, row.message = resolved.becomes.reason, resolved.becomes.message
            self._record.run_changed.tell(said.run)
            self._record.registry_changed.tell(row.request.instance_uid)
            self._audit(
                said.namespace, said.actor, f"run.resolve.{said.answer}",
                run_target(said.run, resolved.done or said.step), said.request_id,
            )  # fmt: skip
            return self._rings_at(row.request.instance_uid)

    def _mark_done(self, row: RunRow, name: str, output: bytes) -> None:
        now = self._record.now()
        before = row.steps[name]
        row.write(replace(before, state="succeeded", output=output, reason="", message="", finished_at=now))

    def _go_on(self, row: RunRow, state: RunState) -> None:
        now = self._record.now()
        row.state = state
        if state is RunState.QUEUED:
            row.finished_at, row.due_at = None, now
            row.extend(now - (row.started_at or now))
        elif state is RunState.DEAD:
            row.finished_at = now

    def _run(self, namespace: str, run: RunId) -> RunRow:
        row = self._record.rows.get(run)
        if row is None or row.request.namespace != namespace:
            raise NotFound(f"There is no run {run!r} in namespace {namespace!r}.")
        return row

    async def queues(self, namespace: str, instance: str | None = None) -> Sequence[QueueView]:
        """Return the queues of a namespace by name."""
        with self._record.reach():
            found = [row for row in self._instances(namespace) if instance in (None, row.published.name)]
            return [self._view(row) for row in sorted(found, key=lambda row: row.published.name)]

    def _instances(self, namespace: str) -> list[InstanceRow]:
        rows = self._record.instances.values()
        return [row for row in rows if row.published.namespace == namespace and not row.deleted]

    def _view(self, row: InstanceRow) -> QueueView:
        found, now = row.published, self._record.now()
        runs = [run for run in self._record.rows.values() if run.request.instance_uid == found.uid]
        queued = [run.due_at for run in runs if run.state is RunState.QUEUED]
        return QueueView(
            namespace=found.namespace,
            instance=found.name,
            suspended=found.suspended,
            current_revision=found.current_revision,
            pause=row.pause,
            stop=self._record.stops.get(found.namespace),
            due=sum(due <= now for due in queued),
            later=sum(due > now for due in queued),
            running=sum(run.state is RunState.RUNNING for run in runs),
            waiting=sum(run.state is RunState.WAITING for run in runs),
            oldest_due_at=min((due for due in queued if due <= now), default=None),
        )

    async def pause(self, namespace: str, instance: str, actor: Actor) -> bool:
        """Hand out nothing of the queue any more."""
        with self._record.reach():
            row = self._instance(namespace, instance)
            if row is None:
                return False
            if row.pause is None:
                row.pause = Pause(at=self._record.now(), by=actor.name)
                self._changed(row, "queue.pause", actor)
            return True

    async def resume(self, namespace: str, instance: str, actor: Actor) -> Sequence[Ring] | None:
        """Hand out again."""
        with self._record.reach():
            row = self._instance(namespace, instance)
            if row is None:
                return None
            if row.pause is not None:
                row.pause = None
                self._changed(row, "queue.resume", actor)
            return self._rings_of([row])

    def _instance(self, namespace: str, instance: str) -> InstanceRow | None:
        return next((row for row in self._instances(namespace) if row.published.name == instance), None)

    def _changed(self, row: InstanceRow, action: str, actor: Actor) -> None:
        self._record.registry_changed.tell(row.published.uid)
        target = f"instance/{row.published.name}"
        self._audit(row.published.namespace, actor.name, action, target, actor.request_id)

    async def stop(self, namespace: str, actor: Actor, *, message: str, cancels: bool) -> Stop:
        """Accept and hand out nothing in the namespace any more."""
        with self._record.reach():
            before = self._record.stops.get(namespace)
            if before is None or (cancels and not before.cancels):
                made = Stop(at=self._record.now(), by=actor.name, message=message, cancels=cancels)
                self._record.stops[namespace] = made
                self._audit(namespace, actor.name, "organization.stop", namespace, actor.request_id)
                cancel_stopped(self._record)
                for row in self._instances(namespace):
                    self._record.registry_changed.tell(row.published.uid)
            return self._record.stops[namespace]

    async def start(self, namespace: str, actor: Actor) -> Sequence[Ring]:
        """Let the namespace work again."""
        with self._record.reach():
            if self._record.stops.pop(namespace, None) is None:
                return ()
            self._audit(namespace, actor.name, "organization.start", namespace, actor.request_id)
            found = self._instances(namespace)
            for row in found:
                self._record.registry_changed.tell(row.published.uid)
            return self._rings_of(found)

    async def stopped(self, namespace: str) -> Stop | None:
        """Return the stop that holds the namespace."""
        with self._record.reach():
            return self._record.stops.get(namespace)

    def _rings_at(self, uid: str) -> list[Ring]:
        return self._rings([row for row in self._record.rows.values() if row.request.instance_uid == uid])

    def _rings_of(self, found: Sequence[InstanceRow]) -> list[Ring]:
        uids = {row.published.uid for row in found}
        return self._rings([row for row in self._record.rows.values() if row.request.instance_uid in uids])

    def _rings(self, rows: Sequence[RunRow]) -> list[Ring]:
        """Return the queues that hold any of these runs and may hand them out; wake their workers."""
        now = self._record.now()
        rings: dict[Ring, None] = {}
        for row in rows:
            instance = self._record.live(row.request.instance_uid)
            if instance is None or row.state is not RunState.QUEUED or row.due_at > now:
                continue
            fresh = None if instance.published.suspended else instance.published.current_revision
            revision = row.revision or fresh
            if revision and self._record.hands_out(instance):
                rings[row.request.instance_uid, revision] = None
        for uid, revision in rings:
            self._record.wake(uid, revision)
        return sorted(rings)

    def _audit(self, namespace: str, actor: str, action: str, target: str, request_id: str) -> None:
        self._record.audit.append(
            AuditEntry(namespace=namespace, actor=actor, action=action, target=target, request_id=request_id)
        )


class MemoryCancellations:
    """The port `Cancellations` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Hear what is cancelled in these tables."""
        self._record = record

    async def of(self, instance_uid: str) -> AsyncIterator[None]:
        """Yield whenever a running run of the instance was cancelled."""
        async for uid in self._record.cancelled.listen():
            if uid == instance_uid:
                yield


def answer(record: Record, row: RunRow, asked: ApprovalRow, settled: Settled, *, by: str) -> None:
    """Write what became of a question, of its step and of its run."""
    now = record.now()
    asked.verdict, asked.decided_by = settled.verdict, by
    row.write(
        StoredStep(
            name=asked.open.step,
            state=settled.step_state,
            output=b"null" if settled.output is None else msgspec.json.encode(settled.output),
            reason=settled.reason,
            message=settled.message,
            tries=1,
            attempt=row.attempt + 1,
            started_at=asked.open.asked_at,
            finished_at=now,
        )
    )
    if settled.becomes is None:
        row.answered = True
    else:
        if row.state is RunState.WAITING:
            row.extend(now - row.due_at)
        record.end(row, settled.becomes)
    record.run_changed.tell(row.request.id)


def cancel_stopped(record: Record) -> int:
    """Cancel what runs in organisations whose stop says so."""
    found = []
    for row in record.rows.values():
        stop = record.stops.get(row.request.namespace)
        if stop is None or not stop.cancels or row.state is not RunState.RUNNING or row.cancel_requested:
            continue
        record.cancel(row, Reason.ORGANIZATION_STOPPED, str(stop))
        record.audit.append(
            AuditEntry(
                namespace=row.request.namespace,
                actor=stop.by,
                action="run.cancel",
                target=run_target(row.request.id),
            )
        )
        found.append(row.request.id)
    cancel_child_runs(record, found)
    return len(found)
