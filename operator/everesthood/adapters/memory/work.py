"""Runs for the gateway, kept in memory."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from everesthood.adapters.memory.record import Record, RunRow
from everesthood.apis.wire import (
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    LogLine,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.runs import Next, RunId, RunState, after_failure, after_finish, retry_pause
from everesthood.usecases.ports.record import StoredLine, StoredStep, WorkerSeat


class MemoryWork:
    """The port `WorkStore` over a `Record`."""

    def __init__(self, record: Record, lease_seconds: int = 30) -> None:
        """Share the tables with the other views."""
        self._record = record
        self._lease = timedelta(seconds=lease_seconds)
        self._chance = random.Random()  # noqa: S311 - spreads retries, guards nothing

    async def work(self, seat: WorkerSeat, request: WorkRequest) -> WorkReply:
        """Write what was done, then claim."""
        with self._record.reach():
            lost = dict.fromkeys(self._write(seat, request))
            claimed = [self._claim(row, seat) for row in self._due(seat)[: request.want]]
            return WorkReply(assignments=tuple(claimed), lost=tuple(lost))

    def _write(self, seat: WorkerSeat, request: WorkRequest) -> Iterator[str]:
        for line in request.logs:
            if not self._log(seat, line):
                yield line.run
        handed_in: list[Checkpoint | Finish] = [*request.checkpoints, *request.finished]
        for written in handed_in:
            row = self._record.held(written.run, written.fence, seat.instance_uid)
            if row is None:
                yield written.run
                continue
            self._steps(row, written)
            if isinstance(written, Finish):
                self._finish(row, written)
            self._record.run_changed.tell(written.run)

    def _log(self, seat: WorkerSeat, line: LogLine) -> bool:
        row = self._record.rows.get(RunId(line.run))
        if row is None or row.request.instance_uid != seat.instance_uid or row.fence != line.fence:
            return False
        at = datetime.fromtimestamp(line.at, UTC)
        row.log.append(
            StoredLine(seq=len(row.log) + 1, at=at, level=line.level, step=line.step, message=line.message)
        )
        self._record.run_changed.tell(line.run)
        return True

    def _steps(self, row: RunRow, written: Checkpoint | Finish) -> None:
        for step in written.steps:
            row.steps[step.name] = StoredStep(
                name=step.name,
                state=step.state,
                output=bytes(step.output),
                reason=step.reason,
                message=step.message,
                tries=step.tries,
                attempt=row.attempt,
                started_at=_time(step.started_at),
                finished_at=_time(step.finished_at),
            )

    def _finish(self, row: RunRow, finish: Finish) -> None:
        becomes = after_finish(
            finish.outcome, finish.reason, finish.message, cancel_requested=row.cancel_requested
        )
        if becomes.state is RunState.SUCCEEDED:
            row.output = bytes(finish.output)
        elif becomes.state is RunState.DEAD and finish.transient and not row.cancel_requested:
            becomes = self._after_failure(row, finish, becomes)
        self._record.end(row, becomes)

    def _after_failure(self, row: RunRow, finish: Finish, failed: Next) -> Next:
        retry, ends = row.request.retry, row.deadline_at
        return after_failure(
            failed,
            failures=row.failures,
            retry=retry,
            pause_seconds=retry_pause(
                retry, row.failures, finish.retry_after_seconds, chance=self._chance.random()
            ),
            seconds_left=None if ends is None else (ends - self._record.now()).total_seconds(),
        )

    def _due(self, seat: WorkerSeat) -> list[RunRow]:
        """Return what this worker may claim: its own revision's runs; new ones only on the current."""
        instance = self._record.live(seat.instance_uid)
        if instance is None:
            return []
        published, now = instance.published, self._record.now()
        takes_new = published.current_revision == seat.revision and not published.suspended
        revisions = (None, seat.revision) if takes_new else (seat.revision,)
        rows = [
            row
            for row in self._record.rows.values()
            if row.request.instance_uid == seat.instance_uid
            and row.state is RunState.QUEUED
            and row.revision in revisions
            and row.due_at <= now
            and not row.has_waited_too_long(now)
        ]
        return sorted(rows, key=lambda row: (-row.request.priority, row.due_at, row.request.id))

    def _claim(self, row: RunRow, seat: WorkerSeat) -> Assignment:
        now = self._record.now()
        row.state, row.revision = RunState.RUNNING, seat.revision
        row.reason, row.message = None, ""
        row.fence += 1
        row.attempt += 1
        row.lease_until = now + self._lease
        row.started_at = row.started_at or now
        self._record.run_changed.tell(row.request.id)
        ends = row.started_at + timedelta(seconds=row.request.max_run_seconds)
        return Assignment(
            run=row.request.id,
            fence=row.fence,
            attempt=row.attempt,
            input=msgspec.Raw(row.request.input),
            request_id=row.request.request_id,
            seconds_left=(ends - now).total_seconds(),
            lease_seconds=int(self._lease.total_seconds()),
            steps=tuple(
                _record(step)
                for step in row.steps.values()
                if not (step.state == "failed" and step.attempt <= row.failed_attempt)
            ),
        )

    async def heartbeat(self, seat: WorkerSeat, request: HeartbeatRequest) -> HeartbeatReply:
        """Renew leases, no further than one lease beyond the run's deadline."""
        with self._record.reach():
            lost, cancel = [], []
            for mine in request.held:
                row = self._record.held(mine.run, mine.fence, seat.instance_uid)
                if row is None or row.deadline_at is None:
                    lost.append(mine.run)
                    continue
                row.lease_until = min(self._record.now(), row.deadline_at) + self._lease
                if row.cancel_requested:
                    cancel.append(mine.run)
            return HeartbeatReply(lost=tuple(lost), cancel=tuple(cancel))


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _record(step: StoredStep) -> StepRecord:
    return StepRecord(
        name=step.name,
        state=step.state,
        output=msgspec.Raw(step.output),
        reason=step.reason,
        message=step.message,
        tries=step.tries,
        started_at=step.started_at.timestamp() if step.started_at else 0.0,
        finished_at=step.finished_at.timestamp() if step.finished_at else 0.0,
    )
