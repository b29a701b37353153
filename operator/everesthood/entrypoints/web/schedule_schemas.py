"""Shapes of schedules."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from everesthood.domain.schedules import Missed, Overlap
from everesthood.entrypoints.web.schemas import RunJson, Shape
from everesthood.usecases.ports.record import StoredSchedule


class ScheduleView(Shape):
    """A schedule of an AgentInstance and how far it is."""

    name: Annotated[str, Field(description="Name in spec.schedules.")]
    cron: Annotated[str | None, Field(description="Five cron fields; null for a one-shot.")] = None
    time_zone: Annotated[str, Field(description="IANA time zone in which cron is read.")]
    at: Annotated[datetime | None, Field(description="The one time of a one-shot.")] = None
    overlap: Annotated[Overlap, Field(description="What happens beside an earlier run.")]
    missed: Annotated[Missed, Field(description="Which missed times are made up for.")]
    max_missed: Annotated[int, Field(description="Most times that `missed: All` makes up for.")]
    jitter_seconds: Annotated[int, Field(description="Runs start up to so many seconds after the time.")]
    suspended: Annotated[
        bool,
        Field(description="It does not fire: suspended, as its instance may be, or without a good revision."),
    ]
    next_fire_at: Annotated[
        datetime | None,
        Field(description="Next time, without jitter; in the past while it is suspended. Null: no other."),
    ] = None
    last_fire_at: Annotated[datetime | None, Field(description="Last time that got a run.")] = None


class ScheduleList(Shape):
    """The schedules of an AgentInstance."""

    items: Annotated[list[ScheduleView], Field(description="By name.")]


def schedule_view(found: StoredSchedule) -> RunJson:
    """Return a schedule as ScheduleView."""
    schedule = found.schedule
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "timeZone": schedule.time_zone,
        "at": schedule.at,
        "overlap": schedule.overlap,
        "missed": schedule.missed,
        "maxMissed": schedule.max_missed,
        "jitterSeconds": schedule.jitter_seconds,
        "suspended": found.suspended,
        "nextFireAt": found.next_fire_at,
        "lastFireAt": found.last_fire_at,
    }
