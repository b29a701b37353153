"""How late schedules fire: `python -m tests.bench.schedules`. PostgreSQL with fsync on.

10,000 schedules with 60 different pairs of cron and zone are due in one minute: spread over it by jitter,
then all at its first second, then the same with two schedulers that race. Late is the time from due to the
commit of the run, as PostgreSQL stamps it. The due times are computed here, not read from the record.
"""

import argparse
import asyncio
import itertools
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import uvloop
from tests.support.postgres import running_postgres
from tests.support.record import INSTANCE, Harness, postgres_harness

from everesthood.adapters.memory.bell import MemoryBell
from everesthood.adapters.postgres import Database, migrate
from everesthood.bootstrap.scheduler import SCHEDULES_SECONDS
from everesthood.domain import schedules
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.fire_schedules import fire_schedules

_EACH = 20
"""Schedules of one instance, as many as it may have."""
_CRONS = ("* * * * *", "*/1 * * * *", "0-59 * * * *")
_ZONES = (
    *("Etc/UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata"),
    *("Asia/Tokyo", "Australia/Lord_Howe", "Africa/Cairo", "America/Los_Angeles", "Asia/Kathmandu"),
    *("Pacific/Auckland", "Europe/Paris", "Europe/Madrid", "Asia/Shanghai", "America/Chicago", "Asia/Dubai"),
    *("Europe/Warsaw", "America/Denver", "Africa/Lagos"),
)
_BASE = Schedule(
    name="",
    cron="",
    time_zone="",
    at=None,
    overlap=Overlap.SKIP,
    missed=Missed.LATEST,
    max_missed=10,
    jitter_seconds=0,
    suspended=False,
    input=b'{"who":"World"}',
)
_LATENESS = """
select instance_uid, schedule, fire_at, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 as committed
from run where fire_at = $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one minute came to."""

    expected: int
    fired: int
    doubled: int
    late: list[float]

    def row(self, what: str) -> str:
        """Return a line of the table."""
        p50, p99 = (self.late[int(len(self.late) * share)] for share in (0.5, 0.99))
        counts = f"{self.fired:>8,}{self.doubled:>9}"
        return f"{what:<42}{counts}{p50:>10.3f}{p99:>10.3f}{self.late[-1]:>10.3f}"


async def publish(record: Harness, number: int, jitter_seconds: int) -> dict[tuple[str, str], Schedule]:
    """Publish so many schedules and return them by instance and name."""
    pairs = itertools.cycle(itertools.product(_CRONS, _ZONES))
    made: dict[tuple[str, str], Schedule] = {}
    for n in range(number // _EACH):
        mine = []
        for k in range(_EACH):
            cron, zone = next(pairs)
            schedule = replace(_BASE, name=f"s-{k}", cron=cron, time_zone=zone, jitter_seconds=jitter_seconds)
            made[f"uid-{n}", schedule.name] = schedule
            mine.append(schedule)
        instance = replace(INSTANCE, uid=f"uid-{n}", name=f"greeter-{n}", schedules=tuple(mine))
        await record.registry.publish_instance(instance)
    return made


async def keep_firing(record: Harness, until: float) -> None:
    """Do as the scheduler does: a pass, a rest, a pass."""
    bell = MemoryBell()
    while time.time() < until:
        await fire_schedules(clock=record.clock, bell=bell)
        await asyncio.sleep(SCHEDULES_SECONDS)


async def measure(url: str, number: int, *, jitter_seconds: int, schedulers: int) -> Result:
    """Fire one minute's schedules and compare with what was due."""
    database = Database(lambda: url)
    await migrate(database)
    await database.close()
    async with AsyncExitStack() as stack:
        all_of_them = [await stack.enter_async_context(postgres_harness(url)) for _ in range(schedulers)]
        if datetime.now(UTC).second > 40:  # publishing must not run into the minute
            await asyncio.sleep(60 - datetime.now(UTC).second)
        made = await publish(all_of_them[0], number, jitter_seconds)
        minute = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        until = minute.timestamp() + max(15, jitter_seconds + 5)
        await asyncio.gather(
            *(keep_firing(record, min(until, minute.timestamp() + 59)) for record in all_of_them)
        )
        async with all_of_them[0].database.acquire() as connection:  # type: ignore[union-attr]
            rows = await connection.fetch(_LATENESS, minute)
    late = sorted(
        row["committed"] - schedules.due_at(key[0], made[key], minute).timestamp()
        for row in rows
        if (key := (row["instance_uid"], row["schedule"]))
    )
    keys = {(row["instance_uid"], row["schedule"]) for row in rows}
    return Result(expected=len(made), fired=len(keys), doubled=len(rows) - len(keys), late=late)


def main() -> None:
    """Print a table; fail when a time was missed or fired twice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10_000)
    number = parser.parse_args().schedules
    head = f"{'due in one minute':<42}{'fired':>8}{'doubled':>9}{'p50 s':>10}{'p99 s':>10}{'max s':>10}"
    print(f"{number:,} schedules, PostgreSQL with fsync; a pass each {SCHEDULES_SECONDS} s\n{head}")
    wrong = 0
    for what, jitter, schedulers in (
        ("spread over the minute", 54, 1),
        ("all at its first second", 0, 1),
        ("all at its first second, two schedulers", 0, 2),
    ):
        with running_postgres(fsync="on", shared_buffers="256MB", track_commit_timestamp="on") as server:
            result = uvloop.run(measure(server.url, number, jitter_seconds=jitter, schedulers=schedulers))
        wrong += result.doubled + result.expected - result.fired
        print(result.row(what), flush=True)
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()
