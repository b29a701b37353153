"""Lists of runs: which index a filter walks, and how far."""

from typing import Final

import asyncpg
import msgspec

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.pool import Connection, Database, sql
from everesthood.domain.errors import Unavailable
from everesthood.domain.run_ids import first_at
from everesthood.domain.runs import Run, RunState
from everesthood.usecases.ports.record import Page, RunFilter

WINDOW: Final = 10_000
"""Runs that one page looks at."""
TEXT_WINDOW: Final = 4_000
"""Fewer where each has to be read."""
_SMALLER: Final = (1_000, 100)
"""Where texts are large, fewer."""
_AT_FIRST: Final = 4
"""Times as many runs are looked at first as are wanted: most pages are full then."""
_SECONDS: Final = 2
_LAST: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
_FIRST: Final = "00000000-0000-0000-0000-000000000000"
_FAILED: Final = frozenset({RunState.DEAD, RunState.CANCELLED, RunState.EXPIRED, RunState.AMBIGUOUS})
_SINGLE: Final = {RunState.QUEUED: "state = 0", RunState.RUNNING: "state = 1"}
"""States with an index of their own."""
_WALK: Final = """
    select * from run where namespace = $1 and {where} and id < $3::uuid and id >= $4::uuid
    order by id desc limit $5::int"""
_LABEL_WALK: Final = """
    select r.* from run_label l join run r on r.id = l.run_id
    where l.namespace = $1
      and l.name = (select key from jsonb_each_text($6::jsonb) order by key limit 1)
      and l.value = (select value from jsonb_each_text($6::jsonb) order by key limit 1)
      and l.run_id < $3::uuid and l.run_id >= $4::uuid
    order by l.run_id desc limit $5::int"""


_UNORDERED: Final = frozenset(_WALK.replace("{where}", where) for where in _SINGLE.values())
"""Walks of indexes that are not in the order of ids."""
_SETTINGS: Final = (
    f"set local plan_cache_mode = force_custom_plan; set local statement_timeout = '{_SECONDS}s';"
)
_IN_ORDER: Final = "set local enable_sort = off; set local enable_bitmapscan = off;"
"""Else a walk would read all of its rows before the first."""


async def page(database: Database, wanted: RunFilter, window: int | None = None) -> Page:
    """Return a page; where texts are too large to be searched in time, one that looks at fewer runs."""
    largest = window or (WINDOW if wanted.text is None else TEXT_WINDOW)
    for size in (largest, *_SMALLER):
        try:
            return await _page(database, wanted, size)
        except Unavailable as error:
            if not isinstance(error.__cause__, asyncpg.QueryCanceledError):
                raise
    raise Unavailable("The search took too long.", retry_after_seconds=30)


async def _page(database: Database, wanted: RunFilter, window: int) -> Page:
    walk = _walk(wanted)
    async with (
        database.acquire() as connection,
        # One snapshot for both statements, so that the cursor fits the page.
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        # A plan made without the values would not know how far an index leads.
        await connection.execute(_SETTINGS + (_IN_ORDER if walk not in _UNORDERED else ""))
        for size in dict.fromkeys((min(window, _AT_FIRST * wanted.limit), window)):
            bounds = _bounds(wanted, size)
            runs = await _looked(connection, walk, bounds, wanted)
            if len(runs) == wanted.limit:
                return Page(runs=runs, next=runs[-1].id)
        end = await connection.fetchval(sql("list_runs_end").replace("{walk}", walk), *bounds)
        return Page(runs=runs, next=end)


async def _looked(
    connection: Connection, walk: str, bounds: tuple[object, ...], wanted: RunFilter
) -> list[Run]:
    text = sql("list_runs").replace("{walk}", walk)
    return [rows.run(row) for row in await connection.fetch(text, *bounds, *_filters(wanted), wanted.limit)]


def _walk(wanted: RunFilter) -> str:
    """Return the walk that meets the fewest other runs."""
    if wanted.labels:
        return _LABEL_WALK
    if wanted.states and wanted.states <= _FAILED:
        where = "state in (4, 5, 6, 7)"
    elif wanted.states == {RunState.WAITING}:
        where = "state = 2"
    elif len(wanted.states) == 1 and (single := _SINGLE.get(next(iter(wanted.states)))):
        where = single
    else:
        where = "true" if wanted.instance is None else "instance = $2"
    return _WALK.replace("{where}", where)


def _bounds(wanted: RunFilter, window: int) -> tuple[object, ...]:
    ends = [wanted.before or _LAST]
    if wanted.created_to is not None:
        ends.append(first_at(wanted.created_to))
    start = _FIRST if wanted.created_from is None else first_at(wanted.created_from)
    labels = msgspec.json.encode(wanted.labels).decode() if wanted.labels else None
    return wanted.namespace, wanted.instance, min(ends), start, window, labels


def _filters(wanted: RunFilter) -> tuple[object, ...]:
    states = [rows.CODES[state] for state in wanted.states]
    return states, wanted.reason, wanted.template, wanted.revision, _pattern(wanted.text), wanted.replayed


def _pattern(text: str | None) -> str | None:
    if text is None:
        return None
    for sign in "\\%_":
        text = text.replace(sign, f"\\{sign}")
    return f"%{rows.text(text)}%"
