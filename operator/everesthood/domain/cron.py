"""Times of cron expressions.

An expression is read in its zone as Debian's cron does. Where minute and hour are given, a time that the
clock jumps over in spring comes as soon as the gap ends, and a time that the clock shows twice in autumn
comes the first time. Where minute or hour begins with `*`, real time counts: nothing in the gap, and both
passes of the doubled hour.
"""

from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS: Final = 5


@lru_cache(maxsize=1000)  # to see that a time never comes takes a walk through fifty years
def problem(expression: str) -> str | None:
    """Return what is wrong with an expression."""
    if len(expression.split()) != _FIELDS:
        return "must be five cron fields: minute, hour, day of month, month and day of week"
    try:
        found = next(CronSim(expression, datetime(2026, 1, 1, tzinfo=UTC)), None)
    except CronSimError as error:
        return f"has a bad {str(error).removeprefix('Bad ')} field"
    return None if found else "never comes"


@lru_cache(maxsize=1000)
def zone(name: str) -> tzinfo | None:
    """Return the zone of that name if there is one."""
    if name in ("Etc/UTC", "UTC"):
        return UTC  # the quick way through cronsim
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not there, not a name, or a folder of the database
        return None


@lru_cache(maxsize=20_000)
def next_time(expression: str, time_zone: str, after: datetime) -> datetime | None:
    """Return the first time after a moment, in UTC; None when there is none."""
    read_in = zone(time_zone)
    if read_in is None:
        return None
    try:
        times = (found.astimezone(UTC) for found in CronSim(expression, after.astimezone(read_in)))
        # In the doubled hour cronsim may name the first pass although the second has begun.
        return next((found for found in times if found > after), None)
    except CronSimError:
        return None
