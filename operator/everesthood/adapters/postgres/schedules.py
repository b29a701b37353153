"""Schedules in tables: published with their instance, fired by the scheduler. Each inside a transaction."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from everesthood.adapters.postgres import rows
from everesthood.adapters.postgres.cancels import cancel_runs
from everesthood.adapters.postgres.pool import Connection, Row, sql
from everesthood.domain import schedules
from everesthood.domain.schedules import Due, Firing, Planned, Schedule
from everesthood.usecases.ports.record import Fired
from everesthood.usecases.ports.registry import PublishedInstance

_BY_INDEX: Final = "set local enable_seqscan = off"
"""Plans are kept: one that was made while there were no runs would read all of them a day later."""


async def publish(connection: Connection, instance: PublishedInstance) -> None:
    """Write the schedules of an instance that was just published, as far as they differ."""
    now = await connection.fetchval(sql("is_newest"), instance.uid, instance.generation)
    if now is None:
        return
    found = await connection.fetch(sql("known_schedules"), instance.uid)
    wanted = [schedule.name for schedule in instance.schedules]
    if any(row["name"] not in wanted for row in found):
        await connection.execute(sql("remove_schedules"), instance.uid, wanted)
    known = {row["name"]: row for row in found}
    runs = not instance.suspended and instance.current_revision is not None
    table = [
        line
        for schedule in instance.schedules
        if (line := _line(instance.uid, schedule, known.get(schedule.name), now, may_run=runs))
    ]
    if table:
        columns = [list(column) for column in zip(*table, strict=True)]
        await connection.execute(sql("publish_schedules"), instance.uid, *columns)


def _line(
    uid: str, schedule: Schedule, known: Row | None, now: datetime, *, may_run: bool
) -> tuple[object, ...] | None:
    """Return the columns of a schedule, None when they are there already."""
    active = may_run and not schedule.suspended
    before = None if known is None else rows.schedule(known)
    if known is not None and before == schedule and known["active"] == active:
        return None
    if known is None or before is None or before.timing != schedule.timing:
        planned = schedules.first(uid, schedule, now)
    else:
        planned = _planned(known["next_fire_at"], known["next_due_at"])
    return (
        schedule.name,
        schedule.cron,
        schedule.time_zone,
        schedule.at,
        schedule.overlap,
        schedule.missed,
        schedule.max_missed,
        schedule.jitter_seconds,
        schedule.suspended,
        rows.text(schedule.input.decode()),
        active,
        planned.fire_at if planned else None,
        planned.due_at if planned else None,
    )


def _planned(fire_at: datetime | None, due_at: datetime | None) -> Planned | None:
    return None if fire_at is None or due_at is None else Planned(fire_at=fire_at, due_at=due_at)


async def fire(connection: Connection, limit: int) -> tuple[Fired, list[str]]:
    """Lock due schedules, accept their runs, plan their next times; return also which runs changed."""
    await connection.execute(_BY_INDEX)
    found = await connection.fetch(sql("due_schedules"), limit)
    if not found:
        return Fired(schedules=0, started=0, skipped=0, cancelled=0, ring=()), []
    dues = [_due(row) for row in found]
    firings = [schedules.fire(due, found[0]["now"]) for due in dues]
    cancelled = await _cancel(connection, dues, firings)
    started = await _start(connection, firings)
    await _advance(connection, dues, firings)
    revisions = {row["instance_uid"]: row["revision"] for row in found}
    fired = Fired(
        schedules=len(found),
        started=len(started),
        skipped=sum(firing.skipped for firing in firings),
        cancelled=len(cancelled),
        ring=tuple(
            {
                (start.request.instance_uid, revisions[start.request.instance_uid]): None
                for firing in firings
                for start in firing.starts
                if not start.held
            }
        ),
    )
    return fired, cancelled


async def release(connection: Connection, limit: int) -> list[tuple[str, str]]:
    """Let runs go whose schedule's earlier runs are over; return whom to ring."""
    await connection.execute(_BY_INDEX)
    released = await connection.fetch(sql("release_held"), limit)
    return [(row["instance_uid"], row["revision"]) for row in released if row["revision"]]


def _due(row: Row) -> Due:
    return Due(
        instance_uid=row["instance_uid"],
        namespace=row["namespace"],
        instance=row["instance"],
        schedule=rows.schedule(row),
        fire_at=row["next_fire_at"],
        open_runs=row["open_runs"],
        queue=row["queue"],
    )


async def _cancel(connection: Connection, dues: Sequence[Due], firings: Sequence[Firing]) -> list[str]:
    cancelling = [due for due, firing in zip(dues, firings, strict=True) if firing.cancels]
    if not cancelling:
        return []
    earlier = await connection.fetch(
        sql("open_runs_of"),
        [due.instance_uid for due in cancelling],
        [due.schedule.name for due in cancelling],
    )
    verdicts = [
        (row["id"], becomes, f"schedule/{row['schedule']}")
        for row in earlier
        if (becomes := schedules.after_next_time(rows.STATES[row["state"]], row["schedule"]))
    ]
    return await cancel_runs(connection, verdicts)


async def _start(connection: Connection, firings: Sequence[Firing]) -> list[str]:
    table = [
        (
            start.request.id,
            start.request.instance_uid,
            start.request.namespace,
            start.request.instance,
            start.request.input.decode(),
            start.request.requested_by,
            start.request.request_id,
            start.request.max_attempts,
            start.request.max_run_seconds,
            start.request.schedule,
            start.request.fire_at,
            start.held,
            start.request.retry.max_attempts,
            start.request.retry.initial_seconds,
            start.request.retry.max_seconds,
            schedules.HELD.reason if start.held else None,
            schedules.HELD.message if start.held else "",
        )
        for firing in firings
        for start in firing.starts
    ]
    if not table:
        return []
    columns = [list(column) for column in zip(*table, strict=True)]
    return [row["id"] for row in await connection.fetch(sql("fire"), *columns)]


async def _advance(connection: Connection, dues: Sequence[Due], firings: Sequence[Firing]) -> None:
    following = [firing.following for firing in firings]
    await connection.execute(
        sql("advance_schedules"),
        [due.instance_uid for due in dues],
        [due.schedule.name for due in dues],
        [planned.fire_at if planned else None for planned in following],
        [planned.due_at if planned else None for planned in following],
        [firing.starts[-1].request.fire_at if firing.starts else None for firing in firings],
    )
