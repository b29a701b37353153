"""Runs for the gateway: the calls of all workers that come together become one statement."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.batches import Batches
from everesthood.adapters.postgres.pool import Database, Row
from everesthood.apis.wire import (
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.errors import EveresthoodError, Invalid
from everesthood.domain.runs import LONGEST_RETRY_AFTER_SECONDS, RunState, after_finish
from everesthood.usecases.ports.record import WorkerSeat

_HELD: Final = 0
_TRANSIENT: Final = 8
"""Where an end says whether its failure may pass."""
_LOGGED: Final = -1
_CHANCE: Final = random.Random()  # noqa: S311 - spreads retries, guards nothing
_STEPS: Final = msgspec.json.Decoder(tuple[StepRecord, ...])

Queue = tuple[str, str]
"""Instance uid and revision."""


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
        self._calls: Batches[Call, WorkReply] = Batches(self._work, limit=200)

    async def work(self, seat: WorkerSeat, request: WorkRequest) -> WorkReply:
        """Write what was done and claim, together with others that come at the same time."""
        return await self._calls.submit(Call(seat, request))

    async def _work(self, batch: Sequence[Call]) -> Sequence[WorkReply | EveresthoodError]:
        queues = _wants(batch)
        wants = _turned([(*queue, wanted) for queue, wanted in queues.items()], 3)
        ends, steps, lines = list(_ends(batch)), list(_steps(batch)), list(_lines(batch))
        if ends or steps or lines:
            done = (*_columns(ends), *_turned(steps, 11), *_turned(lines, 7))
            found = await self._database.fetch("work", *wants, self._lease_seconds, *done)
        else:
            found = await self._database.fetch("claim", *wants, self._lease_seconds)
        held = {(row["instance_uid"], row["id"], row["fence"]) for row in found if row["k"] == _HELD}
        logged = {(row["instance_uid"], row["id"]) for row in found if row["k"] == _LOGGED}
        claimed: dict[Queue, list[Row]] = defaultdict(list)
        order = list(queues)
        for row in found:
            if row["k"] > 0:
                claimed[order[row["k"] - 1]].append(row)
        self._announcer.changed({row["id"] for row in found})
        shares = _share(batch, claimed)
        return [
            WorkReply(
                assignments=tuple(self._assignment(row) for row in share),
                lost=tuple(_lost(call, held, logged)),
            )
            for call, share in zip(batch, shares, strict=True)
        ]

    def _assignment(self, row: Row) -> Assignment:
        return Assignment(
            run=row["id"],
            fence=row["fence"],
            attempt=row["attempt"],
            input=msgspec.Raw(row["input"].encode()),
            request_id=row["request_id"],
            deadline_at=row["deadline_at"],
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

    async def close(self) -> None:
        """Wait for what is under way."""
        await self._calls.close()
        await self._announcer.close()


def _columns(ends: Sequence[tuple[object, ...]]) -> list[list[object]]:
    """Return ends as columns, the last three empty where no end is a failure that may pass."""
    if any(end[_TRANSIENT] for end in ends):
        return _turned(ends, _TRANSIENT + 3)
    return [*_turned([end[:_TRANSIENT] for end in ends], _TRANSIENT), [], [], []]


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


def _steps(batch: Sequence[Call]) -> Iterable[tuple[object, ...]]:
    """Return steps, each once in its last state: a statement cannot write a row twice."""
    once: dict[tuple[str, int, str, str], tuple[object, ...]] = {}
    for seat, request in batch:
        handed_in: list[Checkpoint | Finish] = [*request.checkpoints, *request.finished]
        for written in handed_in:
            mark = (written.run, written.fence, seat.instance_uid)
            for step in written.steps:
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
