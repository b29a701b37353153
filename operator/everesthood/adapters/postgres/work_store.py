"""Runs for the gateway: the calls of all workers that come together become one statement."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypedDict

import msgspec
import structlog

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.batches import Batches
from everesthood.adapters.postgres.cancels import cancel_child_runs_if_possible
from everesthood.adapters.postgres.limits import Claims, LimitedClaims, Queue
from everesthood.adapters.postgres.pool import Database, Row
from everesthood.apis.wire import (
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    KeptStep,
    OutputsReply,
    OutputsRequest,
    StepOutput,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.errors import EveresthoodError, Invalid
from everesthood.domain.limits import Denial
from everesthood.domain.runs import LONGEST_RETRY_AFTER_SECONDS, RunState, after_finish, lets_go
from everesthood.domain.steps import PAGE_OUTPUT_BYTES
from everesthood.usecases.ports.record import OUTLOOK_SECONDS, WorkerSeat

log = structlog.get_logger(__name__)

_HELD: Final = 0
_TRANSIENT: Final = 8
"""Where an end says whether its failure may pass."""
_LOGGED: Final = -1
_LIMITED: Final = -2
_AFTER_TROUBLE_SECONDS: Final = 1.0
"""When a queue looks again whose limits could not be asked."""
_CHANCE: Final = random.Random()  # noqa: S311 - spreads retries, guards nothing
_STEPS: Final = msgspec.json.Decoder(tuple[KeptStep, ...])


class Outlook(TypedDict, total=False):
    """When a queue may have something again."""

    next_due_in: float
    denied: str


class Call(NamedTuple):
    """One worker's call."""

    seat: WorkerSeat
    request: WorkRequest


class PostgresWork:
    """The port `WorkStore`."""

    def __init__(self, database: Database, *, lease_seconds: int = 30) -> None:
        """Use the process's pool."""
        self._database = database
        self._lease_seconds = lease_seconds
        self._announcer = Announcer(database)
        self._limited = LimitedClaims(database, lease_seconds=lease_seconds)
        self._calls: Batches[Call, WorkReply] = Batches(
            self._work, limit=200, lane=lambda call: call.seat.namespace
        )

    async def work(self, seat: WorkerSeat, request: WorkRequest) -> WorkReply:
        """Write what was done and claim, together with others that come at the same time."""
        return await self._calls.submit(Call(seat, request))

    async def _work(self, batch: Sequence[Call]) -> Sequence[WorkReply | EveresthoodError]:
        queues = _wants(batch)
        if asks := list(_asks(batch)):
            # Before the runs wait, so that a run that waits has its question; kept once, however often asked.
            await self._database.fetch("ask", *_turned(asks, 7))
        wants = _turned([(*queue, wanted) for queue, wanted in queues.items()], 3)
        ends, steps, lines = list(_ends(batch)), list(_steps(batch)), list(_lines(batch))
        if ends or steps or lines:
            done = (*_columns(ends), *_turned(steps, 11), *_turned(lines, 7))
            found = await self._database.fetch("work", *wants, self._lease_seconds, *done)
        else:
            found = await self._database.fetch("claim", *wants, self._lease_seconds)
        if given_up := list(_given_up(batch)):
            await cancel_child_runs_if_possible(self._database, self._announcer, given_up)
        held = {(row["instance_uid"], row["id"], row["fence"]) for row in found if row["k"] == _HELD}
        logged = {(row["instance_uid"], row["id"]) for row in found if row["k"] == _LOGGED}
        claimed: dict[Queue, list[Row]] = defaultdict(list)
        order = list(queues)
        for row in found:
            if row["k"] > 0:
                claimed[order[row["k"] - 1]].append(row)
        limited = {order[int(row["id"]) - 1] for row in found if row["k"] == _LIMITED}
        claims = (
            await self._claim_limited({queue: queues[queue] for queue in limited}) if limited else Claims()
        )
        claimed.update(claims.started)
        changed = {row["id"] for row in found if row["k"] != _LIMITED}
        self._announcer.changed(changed.union(row["id"] for rows in claims.started.values() for row in rows))
        shares = _share(batch, claimed)
        due = await self._next_due(batch, shares, claims)
        return [
            WorkReply(
                assignments=tuple(self._assignment(row) for row in share),
                lost=tuple(_lost(call, held, logged)),
                **_outlook(call, claims, due),
            )
            for call, share in zip(batch, shares, strict=True)
        ]

    async def _claim_limited(self, wants: Mapping[Queue, int]) -> Claims:
        """Claim for limited queues. What the batch has written and claimed by now is told in any case."""
        try:
            return await self._limited.claim(wants)
        except EveresthoodError as error:
            log.warning("limits cannot be asked", error=error.message)
            said = Denial(level="record", seconds=_AFTER_TROUBLE_SECONDS, sentence=error.message)
            return Claims(denials=dict.fromkeys(wants, said))

    async def _next_due(
        self, batch: Sequence[Call], shares: Sequence[Sequence[Row]], claims: Claims
    ) -> Mapping[Queue, float]:
        """Return when the next run of queues is due whose workers found too little and are to wait now."""
        asking = {
            _queue(call): None
            for call, share in zip(batch, shares, strict=True)
            if call.request.settle_bell and len(share) < call.request.want
        }
        queues = [queue for queue in asking if queue not in claims.denials]
        if not queues:
            return {}
        try:
            found = await self._database.fetch(
                "next_due", [uid for uid, _ in queues], [revision for _, revision in queues], OUTLOOK_SECONDS
            )
        except EveresthoodError:
            return {}  # the scheduler rings for what is due
        return {queues[row["k"] - 1]: row["seconds"] for row in found}

    def _assignment(self, row: Row) -> Assignment:
        return Assignment(
            run=row["id"],
            fence=row["fence"],
            attempt=row["attempt"],
            input=msgspec.Raw(row["input"].encode()),
            request_id=row["request_id"],
            seconds_left=row["seconds_left"],
            lease_seconds=self._lease_seconds,
            steps=_STEPS.decode(row["steps"]) if row["steps"] else (),
        )

    async def heartbeat(self, seat: WorkerSeat, request: HeartbeatRequest) -> HeartbeatReply:
        """Renew leases."""
        ids = [held.run for held in request.held]
        fences = [held.fence for held in request.held]
        found = await self._database.fetch("heartbeat", ids, fences, seat.instance_uid, self._lease_seconds)
        mine = {(row["id"], row["fence"]) for row in found}
        return HeartbeatReply(
            lost=tuple(held.run for held in request.held if (held.run, held.fence) not in mine),
            cancel=tuple(row["id"] for row in found if row["cancel_requested"]),
        )

    async def outputs(self, seat: WorkerSeat, request: OutputsRequest) -> OutputsReply:
        """Return those of the named outputs that fit into one answer."""
        mark = (request.run, request.fence, seat.instance_uid)
        found = await self._database.fetch("outputs", *mark, list(request.steps), PAGE_OUTPUT_BYTES)
        return OutputsReply(
            outputs=tuple(
                StepOutput(step=row["name"], output=msgspec.Raw(row["output"].encode())) for row in found
            )
        )

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._calls.close()
        await self._announcer.close()


def _columns(ends: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Return ends as columns, the last three empty where none is a failure that may pass or asks to wait."""
    if any(end[_TRANSIENT] or end[_TRANSIENT + 1] is not None for end in ends):
        return _turned(ends, _TRANSIENT + 3)
    return [*_turned([end[:_TRANSIENT] for end in ends], _TRANSIENT), [], [], []]


def _queue(call: Call) -> Queue:
    return call.seat.instance_uid, call.seat.revision


def _outlook(call: Call, claims: Claims, due: Mapping[Queue, float]) -> Outlook:
    """Return what a worker must know to come back in time."""
    denied = claims.denials.get(_queue(call)) if call.request.want > 0 else None
    if denied is not None:
        return {"next_due_in": denied.seconds, "denied": denied.level}
    if call.request.settle_bell and (seconds := due.get(_queue(call))) is not None:
        return {"next_due_in": seconds}
    return {}


def _turned(table: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Return rows as columns."""
    if not table:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*table, strict=True)]


def _wants(batch: Sequence[Call]) -> dict[Queue, int]:
    """Merge the wants of one queue: SKIP LOCKED does not skip rows of its own transaction."""
    wants: dict[Queue, int] = defaultdict(int)
    for seat, request in batch:
        if request.want > 0:
            wants[seat.instance_uid, seat.revision] += request.want
    return wants


def _share(batch: Sequence[Call], claimed: dict[Queue, list[Row]]) -> list[list[Row]]:
    """Deal the claimed runs of each queue out to its workers in turn, none above its want."""
    shares: list[list[Row]] = [[] for _ in batch]
    for queue, runs in claimed.items():
        callers = [n for n, (seat, _) in enumerate(batch) if (seat.instance_uid, seat.revision) == queue]
        left = iter(runs)
        while callers:
            callers = [n for n in callers if len(shares[n]) < batch[n].request.want]
            for caller in callers:
                run = next(left, None)
                if run is None:
                    callers = []
                    break
                shares[caller].append(run)
    return shares


def _ends(batch: Sequence[Call]) -> Iterable[tuple[object, ...]]:
    """Return ended attempts, each once however often it was handed in."""
    once: dict[tuple[str, int, str], tuple[object, ...]] = {}
    for seat, request in batch:
        for end in request.finished:
            once.setdefault((end.run, end.fence, seat.instance_uid), _end(seat, end))
    return once.values()


def _end(seat: WorkerSeat, end: Finish) -> tuple[object, ...]:
    becomes = after_finish(end.outcome, end.reason, end.message, cancel_requested=False)
    if_cancelled = after_finish(end.outcome, end.reason, end.message, cancel_requested=True)
    wait = end.retry_after_seconds
    return (
        end.run,
        end.fence,
        seat.instance_uid,
        rows.CODES[becomes.state],
        rows.CODES[if_cancelled.state],
        _json(end.output) if becomes.state is RunState.SUCCEEDED else None,
        becomes.reason,
        rows.text(becomes.message),
        end.transient and becomes.state is RunState.DEAD,
        None if wait is None else min(wait, LONGEST_RETRY_AFTER_SECONDS),
        _CHANCE.random(),
    )


def _given_up(batch: Sequence[Call]) -> Iterator[str]:
    """Return runs that may be over without a look at what the runs that they wait for come to."""
    for _, request in batch:
        for end in request.finished:
            becomes = after_finish(end.outcome, end.reason, end.message, cancel_requested=True)
            if lets_go(becomes.state, cancel_requested=False):
                yield end.run


def _asks(batch: Sequence[Call]) -> Iterator[tuple[object, ...]]:
    for seat, request in batch:
        for end in request.finished:
            mark = (end.run, end.fence, seat.instance_uid)
            for ask in end.asks:
                words = (rows.text(ask.step), rows.text(ask.message))
                yield (*mark, *words, ask.deadline_seconds, ask.on_reject)


def _steps(batch: Sequence[Call]) -> Iterable[tuple[object, ...]]:
    """Return steps, each once in its last state: a statement cannot write a row twice."""
    once: dict[tuple[str, int, str, str], tuple[object, ...]] = {}
    for seat, request in batch:
        handed_in: list[Checkpoint | Finish] = [*request.checkpoints, *request.finished]
        for written in handed_in:
            mark = (written.run, written.fence, seat.instance_uid)
            for step in written.steps:
                once.pop((*mark, step.name), None)  # its place is that of its last change
                once[*mark, step.name] = (*mark, *_step(step))
    return once.values()


def _step(step: StepRecord) -> tuple[object, ...]:
    return (
        rows.text(step.name),
        rows.STEP_CODES[step.state],
        _json(step.output),
        rows.text(step.reason),
        rows.text(step.message),
        step.tries,
        step.started_at,
        step.finished_at,
    )


def _lines(batch: Sequence[Call]) -> Iterator[tuple[object, ...]]:
    for seat, request in batch:
        for line in request.logs:
            said = (line.level, rows.text(line.step), rows.text(line.message))
            yield line.run, line.fence, seat.instance_uid, line.at, *said


def _lost(call: Call, held: set[tuple[str, str, int]], logged: set[tuple[str, str]]) -> dict[str, None]:
    """Return runs of the request that another attempt or nobody holds, in order."""
    uid, request = call.seat.instance_uid, call.request
    silent = [line.run for line in request.logs if (uid, line.run) not in logged]
    written: list[tuple[str, int]] = [(c.run, c.fence) for c in request.checkpoints]
    written += [(f.run, f.fence) for f in request.finished]
    return dict.fromkeys(silent + [run for run, fence in written if (uid, run, fence) not in held])


def _json(value: msgspec.Raw) -> str:
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise Invalid("A JSON value of the request is not UTF-8.") from error
