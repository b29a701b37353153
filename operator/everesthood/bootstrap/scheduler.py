"""Wires the scheduler."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from everesthood.adapters.postgres import (
    Database,
    Listener,
    PostgresClock,
    PostgresKeeping,
    check_schema,
)
from everesthood.adapters.redis import RedisBell, RedisBrokerUsers, connect
from everesthood.bootstrap.connections import open_database, redis_address
from everesthood.domain.errors import Invalid
from everesthood.domain.keeping import Keeping
from everesthood.settings import Settings
from everesthood.usecases.duties import Duty
from everesthood.usecases.fire_schedules import fire_schedules
from everesthood.usecases.forget_old import Forgetter
from everesthood.usecases.keep_broker_users import BrokerUserKeeper
from everesthood.usecases.keep_control import keep_control
from everesthood.usecases.ports.bell import Bell, BrokerUsers
from everesthood.usecases.ports.keeping import KeepStore
from everesthood.usecases.ports.record import ClockStore
from everesthood.usecases.repair_bells import repair_bells
from everesthood.usecases.rescue_runs import rescue_runs

USERS_SECONDS = 2.0
BELLS_SECONDS = 1.0
RESCUE_SECONDS = 1.0
SCHEDULES_SECONDS = 0.25
CONTROL_SECONDS = 1.0
FORGET_SECONDS = 20.0
_LONGEST_DAYS = 36_500


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerParts:
    """What the scheduler process works with."""

    database: Database
    clock: PostgresClock
    duties: Sequence[Duty]

    async def check_schema(self) -> None:
        """Raise Conflict on a schema that this version does not know, Unavailable when PostgreSQL is away."""
        await check_schema(self.database)


@asynccontextmanager
async def scheduler_parts(settings: Settings) -> AsyncIterator[SchedulerParts]:
    """Yield the collaborators and close what they hold."""
    _check_file(settings.bell_key_file, "EVERESTHOOD_BELL_KEY_FILE")
    _check_file(settings.redis_bell_password_file, "EVERESTHOOD_REDIS_BELL_PASSWORD_FILE")
    async with AsyncExitStack() as stack:
        database = open_database(settings, "scheduler")
        stack.push_async_callback(database.close)
        listener = Listener(database)
        stack.push_async_callback(listener.close)
        clock = PostgresClock(database, listener)
        stack.push_async_callback(clock.close)
        redis = connect(redis_address(settings), process="scheduler")
        bell = RedisBell(redis)
        stack.push_async_callback(bell.aclose)
        users = RedisBrokerUsers(
            redis,
            bell_key_file=settings.bell_key_file,
            bell_password_file=settings.redis_bell_password_file,
        )
        yield SchedulerParts(
            database=database,
            clock=clock,
            duties=(
                *duties(clock, bell, users, bell_repair_seconds=settings.bell_repair_seconds),
                forgetting(PostgresKeeping(database), settings),
            ),
        )


def forgetting(store: KeepStore, settings: Settings) -> Duty:
    """Return the duty that keeps the record from growing for ever."""
    days = {
        "EVERESTHOOD_KEEP_RUNS_DAYS": settings.keep_runs_days,
        "EVERESTHOOD_KEEP_DEAD_RUNS_DAYS": settings.keep_dead_runs_days,
        "EVERESTHOOD_KEEP_LOG_LINES_DAYS": settings.keep_log_lines_days,
        "EVERESTHOOD_KEEP_KEYS_DAYS": settings.keep_keys_days,
        "EVERESTHOOD_KEEP_AUDIT_DAYS": settings.keep_audit_days,
    }
    for variable, number in days.items():
        if not 0 <= number <= _LONGEST_DAYS:
            raise Invalid(f"{variable} must be from 0, which means for ever, to {_LONGEST_DAYS}.")
    keeping = Keeping(
        runs=settings.keep_runs_days,
        dead_runs=settings.keep_dead_runs_days,
        log_lines=settings.keep_log_lines_days,
        keys=settings.keep_keys_days,
        audit=settings.keep_audit_days,
    )
    forgetter = Forgetter(store=store, keeping=keeping)
    return Duty(name="forget-old", period_seconds=FORGET_SECONDS, work=forgetter.forget)


def duties(
    clock: ClockStore, bell: Bell, users: BrokerUsers, *, bell_repair_seconds: float
) -> tuple[Duty, ...]:
    """Return what the scheduler does, each with its period."""
    return (
        Duty(
            name="fire-schedules",
            period_seconds=SCHEDULES_SECONDS,
            work=partial(fire_schedules, clock=clock, bell=bell),
        ),
        Duty(
            name="keep-control",
            period_seconds=CONTROL_SECONDS,
            work=partial(keep_control, clock=clock),
        ),
        Duty(
            name="keep-broker-users",
            period_seconds=USERS_SECONDS,
            work=BrokerUserKeeper(clock=clock, users=users).keep,
            hints=clock.queue_changes,
        ),
        Duty(
            name="repair-bells",
            period_seconds=BELLS_SECONDS,
            work=partial(repair_bells, clock=clock, bell=bell, older_than_seconds=bell_repair_seconds),
        ),
        Duty(
            name="rescue-runs",
            period_seconds=RESCUE_SECONDS,
            work=partial(rescue_runs, clock=clock, bell=bell),
        ),
    )


def _check_file(path: str, variable: str) -> None:
    if not Path(path).is_file():
        raise Invalid(f"Set {variable} to the path of a file{f': {path} is none' if path else ''}.")
