"""Runs, schedules and queues for the scheduler, kept in memory."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta

from everesthood.adapters.memory import limits, schedules
from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.control import answer, cancel_stopped
from everesthood.adapters.memory.record import Record, RunRow
from everesthood.domain.approvals import SCHEDULER, settle_unanswered
from everesthood.domain.runs import (
    FINAL,
    Next,
    RunState,
    after_deadline,
    after_lease_expiry,
    after_waiting,
)
from everesthood.usecases.ports.control import run_target
from everesthood.usecases.ports.record import AuditEntry, DueBell, Fired, QueueOwner


class MemoryClock:
    """The port `ClockStore` over a `Record`."""

    def __init__(self, record: Record) -> None:
        """Share the tables with the other views."""
        self._record = record

    async def rescue(self) -> Mapping[str, int]:
        """End or requeue runs whose worker fell silent or whose time is up."""
        with self._record.reach():
            counts: Counter[str] = Counter()
            ended = []
            for row in self._record.rows.values():
                becomes = self._verdict(row)
                if becomes is not None:
                    self._record.end(row, becomes)
                    counts[becomes.state.value] += 1
                    ended.append(row.request.id)
                    if row.cancel_requested:
                        self._record.cancelled.tell(row.request.instance_uid)
            cancel_child_runs(self._record, ended)
            return counts

    def _verdict(self, row: RunRow) -> Next | None:
        now = self._record.now()
        ends = row.deadline_at
        if row.state is RunState.QUEUED and row.has_waited_too_long(now):
            return after_waiting()
        if row.state is RunState.QUEUED and ends is not None and ends <= now:
            return after_deadline()
        if row.state is not RunState.RUNNING or row.lease_until is None:
            return None
        if row.lease_until >= now and (row.cancel_by is None or row.cancel_by > now):
            return None
        return after_lease_expiry(
            attempt=row.attempt - row.failures,
            max_attempts=row.request.max_attempts,
            cancel_requested=row.cancel_requested,
            deadline_at=ends,
            now=now,
        )

    async def expire_approvals(self) -> int:
        """End questions whose deadline passed."""
        with self._record.reach():
            return sum([self._expire(row) for row in self._record.rows.values()])

    def _expire(self, row: RunRow) -> int:
        now, found = self._record.now(), 0
        for asked in sorted(row.approvals.values(), key=lambda one: one.open.step):
            if asked.verdict is not None or asked.open.deadline_at > now:
                continue
            if row.state in FINAL:
                del row.approvals[asked.open.step]
                continue
            answer(self._record, row, asked, settle_unanswered(row.state, asked.open.step), by=SCHEDULER)
            target = run_target(row.request.id, asked.open.step)
            entry = AuditEntry(
                namespace=row.request.namespace, actor=SCHEDULER, action="run.approval-expire", target=target
            )
            self._record.audit.append(entry)
            found += 1
        return found

    async def cancel_stopped(self) -> int:
        """Cancel what runs in organisations whose stop says so."""
        with self._record.reach():
            return cancel_stopped(self._record)

    async def fire_schedules(self, limit: int) -> Fired:
        """Accept the runs of due schedules and plan their next times."""
        with self._record.reach():
            fired = schedules.fire(self._record, limit)
            self._wake(fired.ring)
            return fired

    async def release_held(self, limit: int) -> Sequence[tuple[str, str]]:
        """Let runs go whose schedule's earlier runs are over."""
        with self._record.reach():
            released = schedules.release(self._record, limit)
            self._wake(released)
            return released

    async def due_bells(self, older_than_seconds: float) -> Sequence[DueBell]:
        """Return queues with work that waited too long."""
        with self._record.reach():
            since = self._record.now() - timedelta(seconds=older_than_seconds)
            waiting = (r for r in self._record.rows.values() if r.state is RunState.QUEUED)
            bells = {self._bell(row) for row in waiting if row.due_at <= since}
            found = [bell for bell in bells if bell is not None]
            self._wake([(bell.instance_uid, bell.revision) for bell in found])
            return found

    def _wake(self, queues: Sequence[tuple[str, str]]) -> None:
        for uid, revision in queues:
            self._record.wake(uid, revision)

    def _bell(self, row: RunRow) -> DueBell | None:
        instance = self._record.live(row.request.instance_uid)
        if instance is None or not self._record.hands_out(instance) or limits.is_held(self._record, instance):
            return None
        fresh = None if instance.published.suspended else instance.published.current_revision
        revision = row.revision or fresh
        return DueBell(instance_uid=row.request.instance_uid, revision=revision) if revision else None

    async def queue_owners(self) -> Sequence[QueueOwner]:
        """Return all instances, deleted ones not wanted."""
        with self._record.reach():
            return [
                QueueOwner(instance_uid=uid, wanted=not row.deleted, ready=row.queue_ready)
                for uid, row in self._record.instances.items()
            ]

    async def mark_queues(self, ready: Sequence[str], gone: Sequence[str]) -> None:
        """Mark broker users made; forget deleted instances whose user is gone."""
        with self._record.reach():
            for uid in ready:
                row = self._record.live(uid)
                if row is not None and not row.queue_ready:
                    row.queue_ready = True
                    self._record.registry_changed.tell(uid)
            for uid in gone:
                gone_row = self._record.instances.get(uid)
                if gone_row is not None and gone_row.deleted:
                    del self._record.instances[uid]
                    self._record.registry_changed.tell(uid)

    async def lead(self, duty: str) -> AsyncIterator[bool]:
        """Yield True once nobody else has the duty; it is never lost in memory."""
        lock = self._record.duties.setdefault(duty, asyncio.Lock())
        async with lock:
            yield True
            await asyncio.Event().wait()

    async def queue_changes(self) -> AsyncIterator[None]:
        """Yield at each published or removed instance."""
        async for _ in self._record.queue_changed.listen():
            yield
