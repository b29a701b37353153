"""The known traps of queues on Redis, of Celery's above all: one test each that shows that we do not have it.

Celery, its Redis transport, the Valkey and the PostgreSQL are real. Each docstring names the trap and where its
users report it.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import pytest
from tests.support.broker import Broker, Ear, broker_on, listening
from tests.support.record import (
    INSTANCE,
    LEASE_SECONDS,
    Harness,
    database_url,
    databases,
    finish,
    hold,
    postgres_harness,
    seat,
)
from tests.support.valkey import ValkeyServer, running_valkey

from everesthood.adapters.celery import app, build_app, consumer
from everesthood.adapters.celery.app import POOL_THREADS
from everesthood.apis.wire import HeartbeatRequest
from everesthood.domain.bells import DRAIN_TASK, bell_message, queue_key
from everesthood.domain.limits import Limits, Rate
from everesthood.domain.runs import Dedupe, RunRetry, RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.fire_schedules import fire_schedules
from everesthood.usecases.repair_bells import repair_bells
from everesthood.usecases.rescue_runs import rescue_runs

__all__ = ["database_url", "databases"]
pytestmark = [
    pytest.mark.integration,
    # Celery announces what its next major version will do, whenever a connection is lost.
    pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning"),
]
UID, REVISION = INSTANCE.uid, "r1"
QUEUE = queue_key(UID, REVISION)
TICK = Schedule(
    name="tick", cron="* * * * *", time_zone="Etc/UTC", at=None, overlap=Overlap.ALLOW, missed=Missed.ALL,
    max_missed=10, jitter_seconds=0, suspended=False, input=b"{}",
)  # fmt: skip


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as started:
        yield started


@pytest.fixture
async def broker(server: ValkeyServer) -> AsyncIterator[Broker]:
    async with broker_on(server) as made:
        yield made


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Harness]:
    async with postgres_harness(database_url) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Celery hand out again after a second what nobody acknowledged."""

    def build(*args: Any, **options: Any) -> Any:
        built = build_app(*args, **options)
        built.conf.broker_transport_options |= {
            "visibility_timeout": 1,
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
        }
        return built

    monkeypatch.setattr(consumer, "build_app", build)


class Busy(Ear):
    """A consumer in which each bell is heard for as long as the test wants."""

    def __init__(self, lease: Any) -> None:
        self.free = threading.Event()
        self.hearing = 0
        super().__init__(lease)

    def _bell(self) -> None:
        with self._changed:
            self.hearing += 1
            self._changed.notify_all()
        self.free.wait(20)
        super()._bell()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.free.set()
        self.consumer.stop()
        self.thread.join(10)
        assert not self.thread.is_alive()


async def until(ear: Ear, condition: Any, seconds: float = 15.0) -> None:
    await asyncio.to_thread(ear.until, condition, seconds)


def push(server: ValkeyServer, count: int, key: str = QUEUE) -> None:
    """Put bells in the queue past the rule that one is enough."""
    with server.admin() as client:
        for n in range(count):
            client.lpush(key, bell_message(REVISION, message_id=f"m{n}", delivery_tag=f"t{n}"))


def unacknowledged(server: ValkeyServer, uid: str = UID) -> int:
    with server.admin() as client:
        return int(client.hlen(f"agi:{uid}:unacked")) + int(client.zcard(f"agi:{uid}:unacked_index"))


# --- acknowledgement and visibility -----------------------------------------------------------------------


async def test_work_longer_than_the_visibility_timeout_is_not_handed_out_again(broker, server, impatient):
    """Visibility timeout: a task longer than it runs again beside itself, https://github.com/celery/kombu/issues/337."""
    with Busy(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        await broker.ring()
        await until(ear, lambda it: it.hearing == 1)
        assert unacknowledged(server) == 0, "a bell is acknowledged before anything is done about it"
        await asyncio.sleep(3)
        assert ear.hearing == 1


async def test_the_timeouts_of_another_instance_are_not_ours(broker, server, impatient):
    """Shared visibility: the shortest timeout of any application on the broker wins, says Celery's own documentation."""
    await broker.users.ensure("uid-b")
    with server.admin() as client:
        client.hset(f"agi:{UID}:unacked", "t", json.dumps([{}, "", "drain.r1"]))
        client.zadd(f"agi:{UID}:unacked_index", {"t": time.time() - 3600})
    with listening(broker.lease(uid="uid-b")) as ear:
        await until(ear, lambda it: it.is_up)
        await asyncio.sleep(2.5)

    assert unacknowledged(server) == 2


async def test_a_worker_that_dies_with_a_bell_costs_its_run_nothing(broker, server, record):
    """Early acknowledgement: a killed worker takes the task with it, https://github.com/celery/celery/issues/4354."""
    accepted = await record.accept()
    await broker.ring()
    with server.admin() as client:
        client.rpop(QUEUE)  # as a worker that heard the bell and died of it
        client.delete(f"agi:{UID}:bell.{REVISION}")

    await record.age(3)
    with listening(broker.lease()) as ear:
        await repair_bells(clock=record.clock, bell=broker.bell, older_than_seconds=2)
        await until(ear, lambda it: it.bells == 1)

    assert [held.run for held in await record.claim()] == [accepted.run]


async def test_a_run_of_a_killed_worker_waits_for_its_lease_and_no_longer(broker, record):
    """Late acknowledgement: a killed worker's task comes back after the visibility timeout, up to an hour later,
    https://github.com/celery/celery/issues/1628."""
    accepted = await record.accept()
    await record.claim()
    await record.age(LEASE_SECONDS + 1)

    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        await rescue_runs(clock=record.clock, bell=broker.bell)
        await until(ear, lambda it: it.bells == 1, seconds=2)

    (again,) = await record.claim()
    assert (again.run, again.attempt) == (accepted.run, 2)


async def test_hundreds_of_bells_are_acknowledged_on_few_connections(broker, server):
    """Connections: "Couldn't ack … Too many connections", https://github.com/celery/celery/issues/1350."""
    options = build_app(broker.lease(), name="x", on_bell=lambda: None).conf.broker_transport_options
    assert options["max_connections"] >= 2 * POOL_THREADS

    push(server, 300)
    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.bells == 300, seconds=30)
        with server.admin() as client:
            ours = [c for c in client.client_list() if c["user"] == f"agi-{UID}"]
        assert len(ours) <= 3

    assert unacknowledged(server) == 0


# --- times that are kept in memory --------------------------------------------------------------------------


async def test_a_later_time_is_a_row_and_in_nobodys_memory(broker, server, record):
    """ETA: countdowns sit in the worker's memory and die with it, https://github.com/celery/celery/issues/3640."""
    later = await record.accept(dedupe=Dedupe(key="k", mode="debounce", seconds=60))

    assert later.ring == ("uid-a", REVISION)  # a worker may hear of it, and is told nothing but to ask
    with server.admin() as client:
        assert client.keys("agi:*") == []
    assert json.loads(bell_message(REVISION, message_id="m", delivery_tag="t"))["headers"]["eta"] is None
    assert await record.claim() == ()
    await record.age(61)
    assert [held.run for held in await record.claim()] == [later.run]


async def test_a_retry_is_a_row_too(broker, server, record):
    """Retry: `self.retry` is an ETA, so it waits in memory and runs again after a reconnect,
    https://github.com/celery/celery/issues/2599."""
    await record.accept(retry=RunRetry(max_attempts=3, initial_seconds=60, max_seconds=60))
    (held,) = await record.claim()
    await record.hand_in(finish(held, "failed", transient=True, retry_after_seconds=60.0))

    assert await record.claim() == ()
    server.flush()
    await record.age(200)
    (again,) = await record.claim()
    assert (again.run, again.fence) == (held.run, held.fence + 1)


# --- hoarding and order ----------------------------------------------------------------------------------------


async def test_nothing_is_fetched_ahead(broker, server):
    """Prefetch: a worker hoards what others could do, and more of it by the day,
    https://github.com/celery/celery/issues/6500."""
    push(server, 50)
    with Busy(broker.lease()) as ear:
        await until(ear, lambda it: it.hearing == POOL_THREADS)
        await asyncio.sleep(1)
        assert broker.waiting() >= 50 - POOL_THREADS - 1


async def test_ten_priorities_are_ten(record):
    """Priority: four lists stand for ten priorities, and 0 comes first, https://github.com/celery/celery/issues/4028."""
    accepted = {n: (await record.accept(priority=n)).run for n in (0, 4, 9, 3, 5)}

    claimed = [held.run for _ in accepted for held in await record.claim(want=1)]

    assert claimed == [accepted[n] for n in (9, 5, 4, 3, 0)]


async def test_a_rate_is_of_all_workers_together(record):
    """Rate: `rate_limit` is each worker's, so a worker more is a limit more, https://github.com/celery/celery/issues/5732."""
    rate = Rate(runs=1, period_seconds=60, burst=3)
    await record.registry.publish_instance(replace(INSTANCE, generation=2, limits=Limits(rate=rate)))
    for _ in range(6):
        await record.accept()

    one, two = await asyncio.gather(record.claim(want=2, pod="pod-1"), record.claim(want=6, pod="pod-2"))

    assert len(one) + len(two) == 3
    assert await record.claim(want=6, pod="pod-3") == ()


async def test_a_flood_of_requests_is_one_bell(broker, server):
    """Depth: a queue that nobody works off grows in Redis until that is full."""
    for _ in range(200):
        await broker.ring()
        await broker.bell.settle(UID, REVISION)

    assert broker.waiting() == 1


# --- connections that come and go ------------------------------------------------------------------------------


async def test_a_worker_is_not_deaf_after_its_connections_were_cut(broker, server):
    """Reconnect: a worker that lost Redis for a moment runs on and hears nothing,
    https://github.com/celery/celery/issues/8091."""
    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        for bells in (1, 2, 3):
            with server.admin() as client:
                client.client_kill_filter(user=f"agi-{UID}")
            await until(ear, lambda it, n=2 * bells: len(it.lines) >= n + 1 and it.is_up)
            await broker.bell.settle(UID, REVISION)
            await broker.ring()
            await until(ear, lambda it, n=bells: it.bells >= n)


async def test_a_redis_that_dies_under_a_running_task_does_not_end_the_worker(broker, server):
    """Exit: a worker of Celery 5.7.0 whose Redis drops with a task in flight ends: `'NoneType' object has no
    attribute 'hostname'`."""
    with Busy(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        await broker.ring()
        await until(ear, lambda it: it.hearing == 1)
        server.restart()
        await broker.users.ensure_bell()
        await broker.users.ensure(UID)
        ear.free.set()
        await until(ear, lambda it: len(it.lines) >= 3 and it.is_up)
        await broker.ring()
        await until(ear, lambda it: it.bells == 2)


async def test_no_key_is_touched_outside_of_the_prefix(broker, server):
    """Prefix: a passive declare asks for the key without it, and of a script's keys only the first gets it."""
    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        await broker.ring()
        await until(ear, lambda it: it.bells == 1)
        with server.admin() as client:
            keys = client.keys("*")

    assert keys
    assert all(key.startswith(f"agi:{UID}:") for key in keys), keys
    denied = {entry["object"] for entry in await broker.redis.acl_log()}
    assert denied <= {"client|setinfo"}


async def test_a_worker_needs_no_channel(broker, server):
    """Channels: for PSUBSCRIBE Redis takes an ACL's patterns literally, so a worker with a prefix cannot start."""
    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        with server.admin() as client:
            user = client.acl_getuser(f"agi-{UID}")
            subscribed = [
                c
                for c in client.client_list()
                if c["user"] == f"agi-{UID}" and int(c["psub"]) + int(c["sub"])
            ]

    assert list(user["channels"]) == []
    assert subscribed == []


# --- what is only in Redis, or only in one process --------------------------------------------------------------


async def test_a_cancellation_outlives_every_process(record, database_url):
    """Revoke: it is kept in the workers' memory and gone with them,
    https://github.com/celery/django-celery-results/issues/423."""
    running = (await record.accept()).run
    (held,) = await record.claim()
    waiting = (await record.accept()).run
    for run in (running, waiting):
        await record.runs.cancel("acme", run, "bob", "r")

    async with postgres_harness(database_url) as other:
        assert await other.claim() == ()
        beat = await other.work.heartbeat(seat(), HeartbeatRequest(held=(hold(held),)))
        assert beat.cancel == (running,)
        assert (await other.run(waiting)).state is RunState.CANCELLED


async def test_there_is_no_canvas_to_get_stuck(broker, server):
    """Chord: its counter in Redis is lost or counted twice, and the join never comes or comes again,
    https://github.com/celery/celery/issues/9674."""
    built = build_app(broker.lease(), name="x", on_bell=lambda: None)

    own = {name for name in built.tasks if not name.startswith("celery.")}
    assert own == {DRAIN_TASK}
    assert built.conf.result_backend is None
    assert built.conf.task_ignore_result
    with listening(broker.lease()) as ear:
        await until(ear, lambda it: it.is_up)
        await broker.ring()
        await until(ear, lambda it: it.bells == 1)
        with server.admin() as client:
            assert not [key for key in client.keys("*") if "chord" in key or "task-meta" in key]


def test_no_broadcast_decides_whether_a_worker_lives():
    """Probe: `inspect ping` calls a busy worker dead, and a deaf one alive, https://github.com/celery/celery/issues/4079."""
    settings = app._doorbell("drain.r1")

    assert not settings["worker_enable_remote_control"]
    assert not settings["worker_send_task_events"]


# --- the clock ----------------------------------------------------------------------------------------------------


async def test_two_schedulers_fire_a_time_once(record, database_url, broker):
    """Beat: two of them send every task twice, https://github.com/celery/celery/issues/2856."""
    await record.registry.publish_instance(replace(INSTANCE, generation=2, schedules=(TICK,)))
    await record.age(180)
    async with postgres_harness(database_url) as other:
        both = [
            fire_schedules(clock=one.clock, bell=broker.bell) for one in (record, other) for _ in range(5)
        ]
        await asyncio.gather(*both)

    async with record.database.acquire() as connection:
        times = [row["fire_at"] for row in await connection.fetch("select fire_at from run")]
    assert len(times) >= 2
    assert len(set(times)) == len(times)


async def test_a_scheduler_that_lost_its_lead_fires_nothing_twice(record, database_url, broker):
    """Redbeat: whoever lost the lock goes on sending, https://github.com/sibson/redbeat/issues/129."""
    at = datetime.now(UTC) + timedelta(seconds=100)
    once = replace(TICK, name="once", cron=None, at=at)
    await record.registry.publish_instance(replace(INSTANCE, generation=2, schedules=(once,)))
    await record.age(101)
    assert (await fire_schedules(clock=record.clock, bell=broker.bell))["runs_started"] == 1

    async with postgres_harness(database_url) as former:
        again = await fire_schedules(clock=former.clock, bell=broker.bell)

    assert again["runs_started"] == 0


async def test_the_next_time_does_not_hang_on_the_run_before(record, broker):
    """Repeat: the next job is made when the one before starts, so one lost job ends them all,
    https://github.com/taskforcesh/bullmq/issues/3499."""
    await record.registry.publish_instance(replace(INSTANCE, generation=2, schedules=(TICK,)))
    for _ in range(3):  # and nobody ever claims one
        await record.age(60)
        await fire_schedules(clock=record.clock, bell=broker.bell)

    (stored,) = await record.runs.schedules(UID)
    assert stored.next_fire_at is not None
    assert stored.next_fire_at > datetime.now(UTC)
    async with record.database.acquire() as connection:
        assert await connection.fetchval("select count(*) from run where state = 0") == 3
