"""Runs for the gateway, kept in memory."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec

from everesthood.adapters.memory import limits
from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.record import HELD, ApprovalRow, Record, RunRow
from everesthood.apis.wire import (
    EMPTY,
    Ask,
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    KeptStep,
    LogLine,
    OutputsReply,
    OutputsRequest,
    StepOutput,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.runs import (
    LONGEST_RETRY_AFTER_SECONDS,
    Approval,
    Next,
    RunId,
    RunState,
    after_failure,
    after_finish,
    retry_pause,
)
from everesthood.domain.steps import CLAIM_OUTPUT_BYTES, PAGE_OUTPUT_BYTES
from everesthood.usecases.ports.record import OUTLOOK_SECONDS, StoredLine, StoredStep, WorkerSeat


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
            due = self._due(seat)[: request.want]
            denied, instance = None, self._record.live(seat.instance_uid)
            if due and instance is not None:
                due, denied = limits.let_in(self._record, instance, due)
            claimed = tuple(self._claim(row, seat) for row in due)
            if denied is not None:
                seconds, level = denied.seconds, denied.level
                return WorkReply(assignments=claimed, lost=tuple(lost), next_due_in=seconds, denied=level)
            asks = request.settle_bell and len(claimed) < request.want
            return WorkReply(
                assignments=claimed, lost=tuple(lost), next_due_in=self._next_due(seat) if asks else None
            )

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
        row.lines_said += 1
        row.log.append(
            StoredLine(seq=row.lines_said, at=at, level=line.level, step=line.step, message=line.message)
        )
        self._record.run_changed.tell(line.run)
        return True

    def _steps(self, row: RunRow, written: Checkpoint | Finish) -> None:
        for step in written.steps:
            row.write(
                StoredStep(
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
            )

    def _finish(self, row: RunRow, finish: Finish) -> None:
        becomes = after_finish(
            finish.outcome, finish.reason, finish.message, cancel_requested=row.cancel_requested
        )
        now = self._record.now()
        for ask in finish.asks:
            _ask(row, ask, now)
        if becomes.state is RunState.WAITING:
            if row.answered:
                becomes = replace(becomes, state=RunState.QUEUED)
            row.answered = False
        if becomes.state is RunState.SUCCEEDED:
            row.output = bytes(finish.output)
        elif becomes.state is RunState.QUEUED:
            wait = min(finish.retry_after_seconds or 0.0, LONGEST_RETRY_AFTER_SECONDS)
            becomes = replace(becomes, pause_seconds=wait)
        elif becomes.state is RunState.DEAD and finish.transient and not row.cancel_requested:
            becomes = self._after_failure(row, finish, becomes)
        self._record.end(row, becomes)
        cancel_child_runs(self._record, [row.request.id])

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
        """Return what this worker may claim, in order."""
        now = self._record.now()
        rows = [row for row in self._open_to(seat) if row.due_at <= now and not row.has_waited_too_long(now)]
        return sorted(rows, key=lambda row: (-row.request.priority, row.due_at, row.request.id))

    def _next_due(self, seat: WorkerSeat) -> float | None:
        """Return in how many seconds the next run is due, None if in more than a minute."""
        now = self._record.now()
        waits = [
            max(0.0, (row.due_at - now).total_seconds())
            for row in self._open_to(seat)
            if row.due_at != HELD and not row.has_waited_too_long(max(now, row.due_at))
        ]
        return min((wait for wait in waits if wait <= OUTLOOK_SECONDS), default=None)

    def _open_to(self, seat: WorkerSeat) -> list[RunRow]:
        """Return queued runs of the worker's own revision, and new ones if it is the current."""
        instance = self._record.live(seat.instance_uid)
        if instance is None or not self._record.hands_out(instance):
            return []
        published = instance.published
        takes_new = published.current_revision == seat.revision and not published.suspended
        revisions = (None, seat.revision) if takes_new else (seat.revision,)
        return [
            row
            for row in self._record.rows.values()
            if row.request.instance_uid == seat.instance_uid
            and row.state is RunState.QUEUED
            and row.revision in revisions
        ]

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
            steps=tuple(_checkpoints(row)),
        )

    async def outputs(self, seat: WorkerSeat, request: OutputsRequest) -> OutputsReply:
        """Return those of the named outputs that fit into one answer."""
        with self._record.reach():
            row = self._record.held(request.run, request.fence, seat.instance_uid)
            found: list[StepOutput] = []
            size = 0
            for step in row.steps.values() if row else ():
                if step.name in request.steps:
                    size += step.size
                    if size > PAGE_OUTPUT_BYTES and found:
                        break
                    found.append(StepOutput(step=step.name, output=msgspec.Raw(step.output or b"null")))
            return OutputsReply(outputs=tuple(found))

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


def _ask(row: RunRow, ask: Ask, now: datetime) -> None:
    """Keep a question as it was asked first."""
    deadline = now + timedelta(seconds=ask.deadline_seconds)
    made = Approval(step=ask.step, message=ask.message, asked_at=now, deadline_at=deadline)
    row.approvals.setdefault(ask.step, ApprovalRow(open=made, on_reject=ask.on_reject))


def _checkpoints(row: RunRow) -> Iterator[KeptStep]:
    """Yield what earlier attempts did, outputs only as far as a claim carries them."""
    size = 0
    for step in row.steps.values():
        if step.state == "failed" and step.attempt <= row.failed_attempt:
            continue
        size += step.size
        record = _record(step)
        if size > CLAIM_OUTPUT_BYTES:
            record = msgspec.structs.replace(record, output=EMPTY, is_held_back=True)
        yield record


def _time(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds else None


def _record(step: StoredStep) -> KeptStep:
    return KeptStep(
        name=step.name,
        state=step.state,
        output=msgspec.Raw(step.output or b"null"),
        reason=step.reason,
        message=step.message,
        tries=step.tries,
        started_at=step.started_at.timestamp() if step.started_at else 0.0,
        finished_at=step.finished_at.timestamp() if step.finished_at else 0.0,
    )
