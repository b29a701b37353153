"""Replay runs that are over: each replay is a new run that names the old one."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, Invalid, NotFound, Problem, Refused
from everesthood.domain.runs import FINAL, Run, RunId, RunState
from everesthood.usecases.list_runs import list_runs
from everesthood.usecases.ports.record import RunFilter, RunStore
from everesthood.usecases.request_run import Answer, RequestRun, Wish

MOST_AT_ONCE: Final = 1000
_SIDE_BY_SIDE: Final = 50
_REPLAYABLE: Final = FINAL - {RunState.SUCCEEDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Who wants runs replayed, and how."""

    requested_by: str
    request_id: str
    input: bytes | None = None
    """JSON instead of each run's own input."""
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A run that could not be replayed."""

    run: RunId
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of a page of runs."""

    matched: int
    replayed: int
    refusals: Sequence[Refusal] = ()
    next: str | None = None
    """Cursor of the next page."""


async def replay_run(request_run: RequestRun, found: Run, how: Replay) -> Answer:
    """Return the new run, its input judged by the revision that is current now.

    Raises:
        Conflict: the run is not over, or the idempotency key clashes.
        NotFound, Invalid, Unavailable: as for any run.
    """
    if found.state not in FINAL:
        raise Conflict(
            f"Run {found.id} is {found.state.value}; only what is over can be replayed.",
            Reason.RUN_NOT_FINISHED,
        )
    wish = Wish(
        namespace=found.namespace,
        instance=found.instance,
        input=found.input if how.input is None else how.input,
        requested_by=how.requested_by,
        request_id=how.request_id,
        idempotency_key=how.idempotency_key,
        priority=found.priority,
        labels=found.labels,
        replay_of=found.id,
    )
    return await request_run(wish)


async def replay_runs(
    request_run: RequestRun, runs: RunStore, wanted: RunFilter, how: Replay, *, dry_run: bool = False
) -> Replayed:
    """Replay one page of what the filter finds, dead runs unless it names other states.

    A refused run is counted and named, and stops no other. The same key and filter replay each run once.
    """
    wanted = _checked(wanted)
    page, following = await list_runs(runs, wanted)
    if dry_run:
        return Replayed(matched=len(page), replayed=0, next=following)
    refusals: list[Refusal] = []
    for start in range(0, len(page), _SIDE_BY_SIDE):
        some = page[start : start + _SIDE_BY_SIDE]
        ends = await asyncio.gather(*(_one(request_run, runs, run, how) for run in some))
        refusals += [end for end in ends if end is not None]
    return Replayed(matched=len(page), replayed=len(page) - len(refusals), refusals=refusals, next=following)


def _checked(wanted: RunFilter) -> RunFilter:
    states = wanted.states or frozenset({RunState.DEAD})
    if not states <= _REPLAYABLE:
        what = f"can be replayed together: {', '.join(sorted(_REPLAYABLE))}"
        raise Invalid(f"Only these states {what}.", problems=(Problem("/query/state", f"only {what}"),))
    return replace(wanted, states=states, limit=min(wanted.limit, MOST_AT_ONCE))


async def _one(request_run: RequestRun, runs: RunStore, run: Run, how: Replay) -> Refusal | None:
    try:
        found = await runs.get(run.namespace, run.id)
        if found is None:
            raise NotFound(f"The run {run.id} is no longer kept.")
        await replay_run(request_run, found, replace(how, idempotency_key=_key(how.idempotency_key, run.id)))
    except Refused as error:
        return Refusal(run=run.id, reason=error.reason, message=error.message)
    return None


def _key(key: str | None, run: RunId) -> str | None:
    """Return a key of its own for each run that is replayed under one."""
    return None if key is None else f"replay-{hashlib.sha256(f'{key} {run}'.encode()).hexdigest()}"
