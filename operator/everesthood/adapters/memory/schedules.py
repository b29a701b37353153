"""Schedules in memory: published with their instance, fired by the scheduler."""

from collections.abc import Collection

import msgspec

from everesthood.adapters.memory.cancels import cancel_child_runs
from everesthood.adapters.memory.record import HELD, Record, RunRow, ScheduleRow
from everesthood.domain import schedules
from everesthood.domain.runs import FINAL, RunState
from everesthood.domain.schedules import Due, Firing, Planned, Schedule, Start
from everesthood.usecases.ports.record import AuditEntry, Fired
from everesthood.usecases.ports.registry import PublishedInstance


def publish(record: Record, instance: PublishedInstance) -> None:
    """Keep the schedules of an instance; a new timing counts from now."""
    forget(record, instance.uid, but={schedule.name for schedule in instance.schedules})
    for schedule in instance.schedules:
        known = record.schedules.get((instance.uid, schedule.name))
        record.schedules[instance.uid, schedule.name] = ScheduleRow(
            schedule=schedule,
            active=not (instance.suspended or schedule.suspended) and instance.current_revision is not None,
            planned=_planned(record, instance.uid, schedule, known),
            last_fire_at=known.last_fire_at if known else None,
        )


def _planned(record: Record, uid: str, schedule: Schedule, known: ScheduleRow | None) -> Planned | None:
    if known is not None and known.schedule.timing == schedule.timing:
        return known.planned
    return schedules.first(uid, schedule, record.now())


def forget(record: Record, uid: str, but: Collection[str] = ()) -> None:
    """Forget the schedules of an instance, apart from some."""
    for key in [key for key in record.schedules if key[0] == uid and key[1] not in but]:
        del record.schedules[key]


def fire(record: Record, limit: int) -> Fired:
    """Accept the runs of due schedules and plan their next times."""
    now = record.now()
    due = [
        (row.planned.due_at, uid, row.planned, row)
        for (uid, _), row in record.schedules.items()
        if row.active
        and row.planned is not None
        and row.planned.due_at <= now
        and record.instances[uid].published.namespace not in record.stops
    ]
    due.sort(key=lambda found: found[:2])
    started = skipped = cancelled = 0
    ring: dict[tuple[str, str], None] = {}
    for _, uid, planned, row in due[:limit]:
        firing = schedules.fire(_due(record, uid, planned, row), now)
        cancelled += _cancel(record, uid, row, firing)
        for start in firing.starts:
            started += _start(record, start)
            if not start.held:
                ring[uid, record.instances[uid].published.current_revision or ""] = None
        skipped += firing.skipped
        row.planned = firing.following
        row.last_fire_at = firing.starts[-1].request.fire_at if firing.starts else row.last_fire_at
    return Fired(
        schedules=len(due[:limit]), started=started, skipped=skipped, cancelled=cancelled, ring=tuple(ring)
    )


def _due(record: Record, uid: str, planned: Planned, row: ScheduleRow) -> Due:
    instance = record.instances[uid].published
    return Due(
        instance_uid=uid,
        namespace=instance.namespace,
        instance=instance.name,
        schedule=row.schedule,
        fire_at=planned.fire_at,
        open_runs=len(_open(record, uid, row.schedule.name)),
        queue=_queue(record, instance),
    )


def _queue(record: Record, instance: PublishedInstance) -> str | None:
    revision = record.revisions.get((instance.namespace, instance.current_revision or ""))
    queue = None if revision is None else msgspec.json.decode(revision.spec).get("queue")
    return None if queue is None else msgspec.json.encode(queue).decode()


def _open(record: Record, uid: str, name: str) -> list[RunRow]:
    return [
        row
        for row in record.rows.values()
        if (row.request.instance_uid, row.request.schedule) == (uid, name) and row.state not in FINAL
    ]


def _cancel(record: Record, uid: str, row: ScheduleRow, firing: Firing) -> int:
    earlier = [run for run in _open(record, uid, row.schedule.name) if not run.cancel_requested]
    if not firing.cancels:
        return 0
    for run in earlier:
        becomes = schedules.after_next_time(run.state, row.schedule.name)
        if becomes is None:
            continue
        if becomes.state is RunState.CANCELLED:
            record.end(run, becomes)
            run.cancel_requested = True
            record.run_changed.tell(run.request.id)
        else:
            record.cancel(run, becomes.reason, becomes.message)
        _note(record, run, "run.cancel", "")
    cancel_child_runs(record, [run.request.id for run in earlier])
    return len(earlier)


def _start(record: Record, start: Start) -> int:
    asked = start.request
    key = (asked.instance_uid, asked.schedule, asked.fire_at)
    for row in record.rows.values():
        if (row.request.instance_uid, row.request.schedule, row.request.fire_at) == key:
            return 0
    now = record.now()
    instance = record.live(asked.instance_uid)
    template = None if instance is None else instance.published.template
    run = RunRow(request=asked, created_at=now, due_at=HELD if start.held else now, template=template)
    if start.held:
        run.reason, run.message = schedules.HELD.reason, schedules.HELD.message
    record.rows[asked.id] = run
    _note(record, run, "run.accept", asked.request_id)
    return 1


def _note(record: Record, run: RunRow, action: str, request_id: str) -> None:
    entry = AuditEntry(
        namespace=run.request.namespace,
        actor=schedules.actor(run.request.schedule or ""),
        action=action,
        target=f"run/{run.request.id}",
        request_id=request_id,
    )
    record.audit.append(entry)


def release(record: Record, limit: int) -> list[tuple[str, str]]:
    """Let the earliest held run of each schedule go once no other of its runs is open."""
    held = sorted(
        (row for row in record.rows.values() if row.due_at == HELD and row.state is RunState.QUEUED),
        key=lambda row: row.request.fire_at or record.now(),
    )
    released: list[tuple[str, str]] = []
    for row in held[:limit]:
        asked = row.request
        others = _open(record, asked.instance_uid, asked.schedule or "")
        instance = record.live(asked.instance_uid)
        if instance is None or any(other.due_at != HELD for other in others):
            continue
        row.due_at, row.reason, row.message = record.now(), None, ""
        revision = instance.published.current_revision
        if revision is not None and not instance.published.suspended and record.hands_out(instance):
            released.append((asked.instance_uid, revision))
    return released
