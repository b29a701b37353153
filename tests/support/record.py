"""The record for tests: the twin in memory and PostgreSQL behind one face, with time that can be moved."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.support.postgres import Databases, postgres_url

from everesthood.adapters.memory import (
    MemoryCancellations,
    MemoryClock,
    MemoryControl,
    MemoryGateway,
    MemoryKeeping,
    MemoryRegistry,
    MemoryRuns,
    MemoryWork,
    Record,
)
from everesthood.adapters.postgres import (
    Database,
    Listener,
    PostgresCancellations,
    PostgresClock,
    PostgresControl,
    PostgresGateway,
    PostgresKeeping,
    PostgresRegistry,
    PostgresRuns,
    PostgresWork,
)
from everesthood.apis.wire import (
    Ask,
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    Held,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.run_ids import uuid7
from everesthood.domain.runs import Run, RunId, RunRequest
from everesthood.usecases.ports.control import Cancellations, ControlStore
from everesthood.usecases.ports.keeping import KeepStore
from everesthood.usecases.ports.record import (
    Accepted,
    ClockStore,
    GatewayStore,
    ObservationStore,
    RunFilter,
    RunStore,
    WorkerSeat,
    WorkStore,
)
from everesthood.usecases.ports.registry import (
    PublishedCredential,
    PublishedInstance,
    PublishedTemplate,
    Registry,
)

LEASE_SECONDS = 30
INSTANCE = PublishedInstance(
    uid="uid-a",
    namespace="acme",
    name="greeter",
    generation=1,
    template="greeting",
    service_account="agent-greeter",
    current_revision="r1",
    config=b'{"tone":"dry"}',
    bindings={"model": "model-key"},
)
TEMPLATE = PublishedTemplate(uid="uid-t", namespace="acme", name="greeting", generation=1)
CREDENTIAL = PublishedCredential(
    uid="uid-c",
    namespace="acme",
    name="model-key",
    generation=1,
    type="Bearer",
    header="",
    secret_name="model",
    secret_key="token",
    hosts=("api.example.com",),
    allowed_instances=(),
)


def new_id(days_ago: float = 0) -> RunId:
    moment = datetime.now(UTC) - timedelta(days=days_ago)
    return RunId(str(uuid7(now=moment, randomness=os.urandom(10))))


def seat(revision: str = "r1", uid: str = "uid-a", pod: str = "pod-1") -> WorkerSeat:
    return WorkerSeat(instance_uid=uid, namespace="acme", instance="greeter", revision=revision, pod=pod)


def wish(**changes: object) -> RunRequest:
    request = RunRequest(
        id=new_id(),
        namespace="acme",
        instance="greeter",
        instance_uid="uid-a",
        input=b'{"who":"World"}',
        requested_by="alice",
        request_id="req-1",
        max_attempts=3,
        max_run_seconds=3600,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def finish(held: Assignment, outcome: str = "succeeded", **changes: object) -> Finish:
    return Finish(run=held.run, fence=held.fence, outcome=outcome, **changes)  # type: ignore[arg-type]


def waits(held: Assignment, *steps: str, seconds: int = 600, on_reject: str = "Fail") -> Finish:
    """Return the end of an attempt that asks a person in these steps."""
    asks = tuple(
        Ask(step=name, message=f"May {name}?", deadline_seconds=seconds, on_reject=on_reject)  # type: ignore[arg-type]
        for name in steps
    )
    said = "; ".join(f"steps.{ask.step}: {ask.message}" for ask in asks)
    return finish(held, "waiting", asks=asks, message=said)


def hold(held: Assignment) -> Held:
    return Held(run=held.run, fence=held.fence)


def step(name: str, state: str = "succeeded", output: object = None) -> StepRecord:
    return StepRecord(name=name, state=state, output=msgspec.Raw(msgspec.json.encode(output)))  # type: ignore[arg-type]


@dataclass(kw_only=True)
class Harness:
    """All stores of one record."""

    runs: RunStore
    work: WorkStore
    clock: ClockStore
    registry: Registry
    gateway: GatewayStore
    observations: ObservationStore
    control: ControlStore
    cancellations: Cancellations
    keeper: KeepStore
    move: Callable[[float], object]
    audit: Callable[[], object]
    database: Database | None = None

    async def age(self, seconds: float) -> None:
        """Let everything be older by so many seconds."""
        result = self.move(seconds)
        if hasattr(result, "__await__"):
            await result

    async def audited(self) -> list[tuple[str, str, str]]:
        """Return (actor, action, target) of the audit log."""
        result = self.audit()
        return await result if hasattr(result, "__await__") else result  # type: ignore[no-any-return,return-value]

    async def accept(self, **changes: object) -> Accepted:
        return await self.runs.accept(wish(**changes))

    async def claim(self, want: int = 10, **of: str) -> tuple[Assignment, ...]:
        return (await self.work.work(seat(**of), WorkRequest(want=want))).assignments

    async def hand_in(self, *ends: Finish, **of: str) -> WorkReply:
        return await self.work.work(seat(**of), WorkRequest(finished=ends))

    async def checkpoint(self, held: Assignment, *steps: StepRecord) -> WorkReply:
        done = Checkpoint(run=held.run, fence=held.fence, steps=steps)
        return await self.work.work(seat(), WorkRequest(checkpoints=(done,)))

    async def heartbeat(self, *held: Assignment) -> HeartbeatReply:
        return await self.work.heartbeat(seat(), HeartbeatRequest(held=tuple(hold(one) for one in held)))

    async def listed(self, wanted: RunFilter) -> list[Run]:
        """Return the runs of one page."""
        return list((await self.runs.list(wanted)).runs)

    async def run(self, run: str) -> Run:
        found = await self.runs.get("acme", RunId(run))
        assert found is not None
        return found


def memory_harness() -> Harness:
    offset = timedelta()

    def now() -> datetime:
        return datetime.now(UTC) + offset

    def move(seconds: float) -> None:
        nonlocal offset
        offset += timedelta(seconds=seconds)

    record = Record(now)
    gateway = MemoryGateway(record)
    return Harness(
        runs=MemoryRuns(record),
        work=MemoryWork(record, LEASE_SECONDS),
        clock=MemoryClock(record),
        registry=MemoryRegistry(record),
        gateway=gateway,
        observations=gateway,
        control=MemoryControl(record),
        cancellations=MemoryCancellations(record),
        keeper=MemoryKeeping(record),
        move=move,
        audit=lambda: [(line.actor, line.action, line.target) for line in record.audit],
    )


@asynccontextmanager
async def postgres_harness(url: str, *, size: int = 10) -> AsyncIterator[Harness]:
    database = Database(lambda: url, size=size)
    listener = Listener(database)

    async def move(seconds: float) -> None:
        async with database.acquire() as connection:
            await connection.execute(
                "update run set due_at = due_at - $1::interval, lease_until = lease_until - $1,"
                " started_at = started_at - $1, created_at = created_at - $1, expires_at = expires_at - $1,"
                " finished_at = finished_at - $1, cancel_by = cancel_by - $1",
                timedelta(seconds=seconds),
            )
            for table, column in (("run_log", "at"), ("idempotency", "created_at"), ("audit", "at")):
                await connection.execute(
                    f"update {table} set {column} = {column} - $1::interval", timedelta(seconds=seconds)
                )
            for step in (timedelta(days=9999), timedelta(seconds=seconds) - timedelta(days=9999)):
                # In two steps, so that no time meets another one on its way: they are unique.
                await connection.execute(
                    "update run set fire_at = fire_at - $1::interval where fire_at is not null", step
                )
            await connection.execute(
                "update scale_in set asked_at = asked_at - $1::interval", timedelta(seconds=seconds)
            )
            await connection.execute(
                "update schedule set next_fire_at = next_fire_at - $1::interval,"
                " next_due_at = next_due_at - $1, last_fire_at = last_fire_at - $1, at = at - $1",
                timedelta(seconds=seconds),
            )
            await connection.execute(
                "update run_limit set next_at = next_at - $1::interval, held_until = held_until - $1",
                timedelta(seconds=seconds),
            )
            await connection.execute(
                "update kept_back set at = at - $1::interval", timedelta(seconds=seconds)
            )
            await connection.execute(
                "update approval set asked_at = asked_at - $1::interval, deadline_at = deadline_at - $1",
                timedelta(seconds=seconds),
            )
            await connection.execute(
                "update credential set observed_at = observed_at - $1::interval", timedelta(seconds=seconds)
            )

    async def audit() -> list[tuple[str, str, str]]:
        async with database.acquire() as connection:
            return [
                tuple(row)
                for row in await connection.fetch("select actor, action, target from audit order by id")
            ]

    gateway = PostgresGateway(database)
    runs, work = PostgresRuns(database, listener), PostgresWork(database, lease_seconds=LEASE_SECONDS)
    control = PostgresControl(database)
    clock, registry = PostgresClock(database, listener), PostgresRegistry(database, listener)
    try:
        yield Harness(
            runs=runs,
            work=work,
            clock=clock,
            registry=registry,
            gateway=gateway,
            observations=gateway,
            control=control,
            cancellations=PostgresCancellations(listener),
            keeper=PostgresKeeping(database),
            move=move,
            audit=audit,
            database=database,
        )
    finally:
        for store in (runs, work, clock, registry, control):
            await store.close()
        await listener.close()
        await database.close()


@pytest.fixture(scope="session")
def databases() -> Iterator[Databases]:
    """Yield the maker of fresh databases on the session's server."""
    with postgres_url() as url:
        yield Databases(url)


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """Yield the address of an empty database with the newest schema."""
    url = await databases.borrow()
    yield url
    await databases.give_back(url)


@pytest.fixture(params=["memory", "postgres"])
async def record(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    """Yield an empty record, once of each kind."""
    if request.param == "memory":
        yield memory_harness()
        return
    databases: Databases = request.getfixturevalue("databases")
    url = await databases.borrow()
    async with postgres_harness(url) as harness:
        yield harness
    await databases.give_back(url)


@pytest.fixture
async def published(record: Harness) -> Harness:
    """Return a record with one instance on revision r1."""
    await record.registry.publish_instance(INSTANCE)
    return record
