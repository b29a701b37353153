"""Requests as the statements take them, and the accepting of those that may be one with another."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from everesthood.adapters.postgres.announce import Announcer
from everesthood.adapters.postgres.pool import Database, Row, again, sql
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, EveresthoodError, Invalid, NotFound, Unavailable
from everesthood.domain.runs import RunId, RunRequest
from everesthood.usecases.ports.record import Accepted

Answers = list[Accepted | EveresthoodError]
_TRIES: Final = 3


def columns(batch: Sequence[RunRequest]) -> tuple[list[object], ...]:
    """Return the requests column by column."""
    table = [
        (
            request.id,
            request.instance_uid,
            request.namespace,
            request.instance,
            request.input.decode(),
            request.requested_by,
            request.request_id,
            request.max_attempts,
            request.max_run_seconds,
            request.idempotency_key,
            request.request_digest,
        )
        for request in batch
    ]
    said = [_said(request) for request in batch] if any(map(_says_more, batch)) else []
    return (*_turned(table, 11), *_turned(said, 7))


def _says_more(request: RunRequest) -> bool:
    """Return whether the request says more than most do."""
    return bool(
        request.priority
        or request.labels
        or request.ttl_seconds is not None
        or request.replay_of is not None
        or request.retry.max_attempts > 1
    )


def _said(request: RunRequest) -> tuple[object, ...]:
    return (
        request.retry.max_attempts,
        request.retry.initial_seconds,
        request.retry.max_seconds,
        request.priority,
        request.ttl_seconds,
        request.replay_of,
        msgspec.json.encode(request.labels).decode() if request.labels else None,
    )


def _turned(table: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    """Return rows as columns."""
    if not table:
        return [[] for _ in range(width)]
    return [list(column) for column in zip(*table, strict=True)]


def repeated(request: RunRequest, digest: bytes, run: RunId) -> Accepted | EveresthoodError:
    """Return the answer to a request whose idempotency key is known."""
    if digest != request.request_digest:
        said = "The Idempotency-Key was used before with another request."
        return Conflict(said, Reason.IDEMPOTENCY_CONFLICT)
    return Accepted(run=run, ring=None, repeated=True)


class DedupedAccepts:
    """Accepts batches of requests with a dedupe key, each key by one transaction at a time."""

    def __init__(self, database: Database, announcer: Announcer) -> None:
        """Use the process's pool."""
        self._database = database
        self._announcer = announcer

    async def __call__(self, batch: Sequence[RunRequest]) -> Answers:
        """Return an answer for each request, in order."""
        answers: dict[str, Accepted | EveresthoodError] = {}
        for some in _rounds(batch):
            ends = await self._round(some)
            answers.update((r.id, end) for r, end in zip(some, ends, strict=True))
        return [answers[request.id] for request in batch]

    async def _round(self, some: Sequence[RunRequest]) -> Answers:
        for _ in range(_TRIES):
            try:
                rows = await again(lambda: self._once(some))
            except _Overtaken:
                continue
            except (Invalid, Conflict) as error:
                if len(some) == 1:
                    return [error]
                return [end for one in some for end in await self._round([one])]
            except EveresthoodError as error:
                return [error for _ in some]
            self._announcer.changed(row["run"] for row in rows.values() if row["changed"])
            return [_answer(request, rows.get(request.id)) for request in some]
        return [Unavailable("Too many requests have the same key.", retry_after_seconds=1) for _ in some]

    async def _once(self, some: Sequence[RunRequest]) -> dict[str, Row]:
        wanted = [request.dedupe for request in some if request.dedupe is not None]
        keys = [f"{r.instance_uid} {one.key}" for r, one in zip(some, wanted, strict=True)]
        more = [one.key for one in wanted], [one.mode for one in wanted], [one.seconds for one in wanted]
        async with self._database.transaction() as connection:
            # By itself: the next statement must see what the former holder of the lock has committed.
            await connection.execute(sql("lock_keys"), keys)
            found = await connection.fetch(sql("accept_deduped"), *columns(some), *more)
            if not all(row["keyed"] for row in found):
                raise _Overtaken
        return {row["id"]: row for row in found}


class _Overtaken(Exception):  # noqa: N818 - it rolls a transaction back and is no error of ours
    """Another transaction took an idempotency key meanwhile."""


def _rounds(batch: Sequence[RunRequest]) -> Iterator[Sequence[RunRequest]]:
    """Yield the requests in order, none beside another with the same key."""
    left = list(batch)
    while left:
        seen: set[tuple[str, str, str]] = set()
        some: list[RunRequest] = []
        later: list[RunRequest] = []
        for request in left:
            marks = _marks(request)
            (later if seen & marks else some).append(request)
            seen |= marks
        yield some
        left = later


def _marks(request: RunRequest) -> set[tuple[str, str, str]]:
    dedupe = "" if request.dedupe is None else request.dedupe.key
    marks = {("dedupe", request.instance_uid, dedupe)}
    if request.idempotency_key is not None:
        marks.add(("key", request.instance_uid, request.idempotency_key))
    return marks


def _answer(request: RunRequest, row: Row | None) -> Accepted | EveresthoodError:
    if row is None:
        return NotFound("The AgentInstance was deleted.", Reason.INSTANCE_NOT_FOUND)
    if row["digest"] is not None:
        return repeated(request, row["digest"], RunId(row["run"]))
    ring = None if row["revision"] is None else (request.instance_uid, row["revision"])
    return Accepted(run=RunId(row["run"]), ring=ring, repeated=row["repeated"])
