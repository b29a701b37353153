"""Runs for the web API, kept in memory."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta

from everesthood.adapters.memory import limits
from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.record import Record, RunRow, as_run
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.limits import Denial
from everesthood.domain.queues import STOPPED
from everesthood.domain.run_ids import first_at
from everesthood.domain.runs import FINAL, GRACE_SECONDS, Run, RunId, RunRequest, RunState, after_cancel
from everesthood.domain.steps import LISTED_OUTPUT_BYTES
from everesthood.usecases.ports.record import (
    Accepted,
    AuditEntry,
    InstanceTarget,
    Page,
    RunFilter,
    StoredLine,
    StoredSchedule,
    StoredStep,
)


class MemoryRuns:
    """The port `RunStore` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def target(self, namespace: str, instance: str) -> InstanceTarget | None:
        """Return the published instance of that name."""
        with self._record.reach():
            for row in self._record.instances.values():
                found = row.published
                if (found.namespace, found.name) == (namespace, instance) and not row.deleted:
                    revision = self._record.revisions.get((namespace, found.current_revision or ""))
                    return InstanceTarget(
                        uid=found.uid,
                        namespace=namespace,
                        name=instance,
                        suspended=found.suspended,
                        current_revision=found.current_revision,
                        template_spec=None if revision is None else revision.spec,
                    )
        return None

    async def accept(self, request: RunRequest) -> Accepted:
        """Keep the run, once per idempotency key."""
        with self._record.reach():
            if (earlier := self._earlier(request)) is not None:
                return Accepted(run=earlier, ring=None, repeated=True)
            row = self._record.live(request.instance_uid)
            if row is None:
                raise NotFound("The AgentInstance was deleted.", Reason.INSTANCE_NOT_FOUND)
            if request.namespace in self._record.stops:
                raise Conflict(STOPPED, Reason.ORGANIZATION_STOPPED)
            if request.id in self._record.rows:
                raise Conflict(f"A run {request.id} exists.")
            now = self._record.now()
            if (twin := self._twin(request)) is not None:
                self._remember(request, twin.request.id)
                if request.dedupe and request.dedupe.mode == "debounce":
                    self._debounce(twin, request)
                return Accepted(run=twin.request.id, ring=None, repeated=True)
            made = RunRow(request=request, created_at=now, due_at=now, template=row.published.template)
            made.take(request, now)
            self._record.rows[request.id] = made
            self._remember(request, request.id)
            action = "run.accept" if request.replay_of is None else "run.replay"
            self._audit(request.namespace, request.requested_by, action, request.id, request.request_id)
            revision = row.published.current_revision
            rings = revision is not None and not row.published.suspended and self._record.hands_out(row)
            if rings and made.due_at <= now:
                self._record.wake(request.instance_uid, revision)
            return Accepted(
                run=request.id, ring=(request.instance_uid, revision) if rings and revision else None
            )

    def _remember(self, request: RunRequest, run: RunId) -> None:
        if request.idempotency_key is not None:
            key = (request.instance_uid, request.idempotency_key)
            self._record.idempotency[key] = (request.request_digest, run)
            self._record.keyed_at[key] = self._record.now()

    def _twin(self, request: RunRequest) -> RunRow | None:
        """Return the run that a request with a dedupe key is one with."""
        wanted = request.dedupe
        if wanted is None:
            return None
        twins = [
            row
            for row in self._record.rows.values()
            if row.request.instance_uid == request.instance_uid
            and row.request.dedupe is not None
            and row.request.dedupe.key == wanted.key
        ]
        since = self._record.now() - timedelta(seconds=wanted.seconds)
        match wanted.mode:
            case "simple":
                twins = [row for row in twins if row.state not in FINAL]
            case "throttle":
                twins = [row for row in twins if row.created_at > since]
            case "debounce":
                twins = [row for row in twins if row.state is RunState.QUEUED and row.started_at is None]
        return max(twins, key=lambda row: row.request.id, default=None)

    def _debounce(self, twin: RunRow, request: RunRequest) -> None:
        first = twin.request
        twin.take(
            replace(request, id=first.id, requested_by=first.requested_by, request_id=first.request_id),
            self._record.now(),
        )
        self._audit(first.namespace, request.requested_by, "run.debounce", first.id, request.request_id)
        self._record.run_changed.tell(first.id)

    def _earlier(self, request: RunRequest) -> RunId | None:
        if request.idempotency_key is None:
            return None
        known = self._record.idempotency.get((request.instance_uid, request.idempotency_key))
        if known is None:
            return None
        if known[0] != request.request_digest:
            said = "The Idempotency-Key was used before with another request."
            raise Conflict(said, Reason.IDEMPOTENCY_CONFLICT)
        return known[1]

    def _audit(self, namespace: str, actor: str, action: str, run: str, request_id: str) -> None:
        entry = AuditEntry(
            namespace=namespace, actor=actor, action=action, target=f"run/{run}", request_id=request_id
        )
        self._record.audit.append(entry)

    async def get(self, namespace: str, run: RunId) -> Run | None:
        """Return the run if it is in that namespace."""
        with self._record.reach():
            row = self._record.rows.get(run)
            return None if row is None or row.request.namespace != namespace else self._seen(row)

    async def list(self, wanted: RunFilter) -> Page:
        """Return a page, newest first."""
        with self._record.reach():
            rows = [row for row in self._record.rows.values() if _matches(row, wanted)]
            if wanted.replayed is not None:
                rows = [row for row in rows if (self._replay(row) is not None) is wanted.replayed]
            rows.sort(key=lambda row: row.request.id, reverse=True)
            runs = [self._seen(row, whole=False) for row in rows[: wanted.limit]]
            return Page(runs=runs, next=runs[-1].id if len(runs) == wanted.limit else None)

    async def kept_back(self, run: Run) -> Denial | None:
        """Return which limit keeps a due run back."""
        with self._record.reach():
            return limits.kept_back(self._record, run.instance_uid)

    def _seen(self, row: RunRow, *, whole: bool = True) -> Run:
        return replace(as_run(row, whole=whole), replayed_by=self._replay(row))

    def _replay(self, row: RunRow) -> RunId | None:
        rows = self._record.rows.values()
        return max((one.request.id for one in rows if one.request.replay_of == row.request.id), default=None)

    async def steps(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredStep]:
        """Return steps with a greater `seq`."""
        with self._record.reach():
            row = self._record.rows.get(run)
            found = [step for step in row.steps.values() if step.seq > after][:limit] if row else []
            return [replace(step, output=None) if step.size > LISTED_OUTPUT_BYTES else step for step in found]

    async def output(self, run: RunId, step: str) -> bytes | None:
        """Return the output of one step."""
        with self._record.reach():
            row = self._record.rows.get(run)
            found = row.steps.get(step) if row else None
            return None if found is None else found.output

    async def log(self, run: RunId, after: int = 0, limit: int = 1000) -> Sequence[StoredLine]:
        """Return lines with a greater `seq`."""
        with self._record.reach():
            row = self._record.rows.get(run)
            return [] if row is None else [line for line in row.log if line.seq > after][:limit]

    async def cancel(
        self,
        namespace: str,
        run: RunId,
        actor: str,
        request_id: str,
        grace_seconds: float = GRACE_SECONDS,
    ) -> Run | None:
        """Cancel a waiting run, mark a running one."""
        with self._record.reach():
            row = self._record.rows.get(run)
            if row is None or row.request.namespace != namespace:
                return None
            becomes = after_cancel(row.state, actor)
            if becomes is not None and not row.cancel_requested:
                self._audit(namespace, actor, "run.cancel", run, request_id)
                if becomes.state is RunState.CANCELLED:
                    self._record.end(row, becomes)
                    row.cancel_requested = True
                else:
                    self._record.cancel(row, becomes.reason, becomes.message, grace_seconds)
            cancel_child_runs(self._record, [run])
            return self._seen(row)

    async def schedules(self, instance_uid: str) -> Sequence[StoredSchedule]:
        """Return the schedules of an instance by name."""
        with self._record.reach():
            return [
                StoredSchedule(
                    schedule=row.schedule,
                    suspended=not row.active,
                    next_fire_at=row.planned.fire_at if row.planned else None,
                    last_fire_at=row.last_fire_at,
                )
                for (uid, _), row in sorted(self._record.schedules.items(), key=lambda item: item[0])
                if uid == instance_uid
            ]

    async def watch(self, run: RunId) -> AsyncIterator[None]:
        """Yield at each change."""
        async for changed in self._record.run_changed.listen():
            if changed == run:
                yield


def _matches(row: RunRow, wanted: RunFilter) -> bool:
    asked = row.request
    return (
        asked.namespace == wanted.namespace
        and wanted.instance in (None, asked.instance)
        and (not wanted.states or row.state in wanted.states)
        and wanted.reason in (None, row.reason)
        and wanted.template in (None, row.template)
        and wanted.revision in (None, row.revision)
        and wanted.labels.items() <= asked.labels.items()
        and (wanted.created_from is None or asked.id >= first_at(wanted.created_from))
        and (wanted.created_to is None or asked.id < first_at(wanted.created_to))
        and (wanted.before is None or asked.id < wanted.before)
        and (wanted.text is None or _holds(row, wanted.text))
    )


def _holds(row: RunRow, text: str) -> bool:
    return any(text.lower() in value.decode().lower() for value in (row.request.input, row.output or b""))
