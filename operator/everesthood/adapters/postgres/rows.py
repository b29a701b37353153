"""Rows of the record as values of ours, and back."""

from typing import Final

import msgspec

from everesthood.adapters.postgres.pool import Row
from everesthood.apis.reasons import Reason
from everesthood.domain.queues import Pause, Stop
from everesthood.domain.runs import Approval, Run, RunId, RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.ports.record import InstanceTarget, StoredSchedule
from everesthood.usecases.ports.registry import PublishedCredential

STATES: Final = tuple(RunState)
CODES: Final = {state: code for code, state in enumerate(STATES)}
"""States are small integers in the table, in the order of the enum."""
_APPROVALS: Final = msgspec.json.Decoder(tuple[Approval, ...])
STEP_CODES: Final = {"started": 0, "succeeded": 1, "skipped": 2, "failed": 3}


def run(row: Row) -> Run:
    """Return the run of a row."""
    return Run(
        id=RunId(row["id"]),
        namespace=row["namespace"],
        instance=row["instance"],
        instance_uid=row["instance_uid"],
        state=STATES[row["state"]],
        input=row["input"].encode(),
        output=None if row["output"] is None else row["output"].encode(),
        reason=None if row["reason"] is None else Reason(row["reason"]),
        message=row["message"],
        revision=row["revision"],
        attempt=row["attempt"],
        fence=row["fence"],
        requested_by=row["requested_by"],
        request_id=row["request_id"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=row["cancel_requested"],
        schedule=row["schedule"],
        fire_at=row["fire_at"],
        failures=row["failures"],
        due_at=row["due_at"] if row["state"] == CODES[RunState.QUEUED] else None,
        priority=-row["priority"],
        expires_at=row["expires_at"],
        replay_of=None if row["replay_of"] is None else RunId(row["replay_of"]),
        replayed_by=None if row["replayed_by"] is None else RunId(row["replayed_by"]),
        approvals=_APPROVALS.decode(row["approvals"]) if row["approvals"] else (),
        template=row["template"],
        labels={} if row["labels"] is None else msgspec.json.decode(row["labels"]),
    )


def pause(row: Row) -> Pause | None:
    """Return the pause of an instance's row."""
    return None if row["paused_at"] is None else Pause(at=row["paused_at"], by=row["paused_by"])


def stop(row: Row) -> Stop | None:
    """Return the stop of an organisation's row."""
    if row["stopped_at"] is None:
        return None
    return Stop(at=row["stopped_at"], by=row["stopped_by"], message=row["message"], cancels=row["cancels"])


def target(namespace: str, name: str, *, row: Row) -> InstanceTarget:
    """Return the instance of a row for who accepts runs."""
    return InstanceTarget(
        uid=row["uid"],
        namespace=namespace,
        name=name,
        suspended=row["suspended"],
        current_revision=row["current_revision"],
        template_spec=None if row["spec"] is None else row["spec"].encode(),
    )


def schedule(row: Row) -> Schedule:
    """Return the schedule of a row."""
    return Schedule(
        name=row["name"],
        cron=row["cron"],
        time_zone=row["time_zone"],
        at=row["at"],
        overlap=Overlap(row["overlap"]),
        missed=Missed(row["missed"]),
        max_missed=row["max_missed"],
        jitter_seconds=row["jitter_seconds"],
        suspended=row["suspended"],
        input=row["input"].encode(),
    )


def stored_schedule(row: Row) -> StoredSchedule:
    """Return the schedule of a row with how far it is."""
    return StoredSchedule(
        schedule=schedule(row),
        suspended=not row["active"],
        next_fire_at=row["next_fire_at"],
        last_fire_at=row["last_fire_at"],
    )


def credential(row: Row) -> PublishedCredential:
    """Return the credential of a row."""
    return PublishedCredential(
        uid=row["uid"],
        namespace=row["namespace"],
        name=row["name"],
        generation=row["generation"],
        type=row["type"],
        header=row["header"],
        secret_name=row["secret_name"],
        secret_key=row["secret_key"],
        hosts=tuple(row["hosts"]),
        allowed_instances=tuple(row["allowed_instances"]),
    )


def text(value: str) -> str:
    """Return text that PostgreSQL can hold: it knows no NUL and no lone surrogate."""
    if "\0" in value:
        value = value.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return value if value.isascii() else value.encode("utf-8", "replace").decode()
