"""The scheduler as a process of its own, with a real PostgreSQL and a real Valkey."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from tests.support.broker import BELL_KEY, BELL_PASSWORD, Broker
from tests.support.record import INSTANCE, database_url, databases, postgres_harness, waits
from tests.support.valkey import ValkeyServer, free_port, running_valkey

from everesthood.domain.broker import broker_password
from everesthood.domain.runs import FINAL, RunId, RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration

DUTIES = (
    "fire-schedules",
    "forget-old",
    "keep-broker-users",
    "keep-control",
    "repair-bells",
    "rescue-runs",
)


class Scheduler:
    """A running scheduler."""

    def __init__(self, database_url: str, broker: Broker, folder: Path) -> None:
        self.port = free_port()
        self.log = folder / f"scheduler-{self.port}.log"
        environment = {
            **os.environ,
            "EVERESTHOOD_DATABASE_URL": database_url,
            "EVERESTHOOD_REDIS_HOST": "127.0.0.1",
            "EVERESTHOOD_REDIS_PORT": str(broker.server.port),
            "EVERESTHOOD_REDIS_PASSWORD_FILE": str(broker.server.password_file),
            "EVERESTHOOD_REDIS_BELL_PASSWORD_FILE": str(broker.bell_password_file),
            "EVERESTHOOD_BELL_KEY_FILE": str(broker.key_file),
            "EVERESTHOOD_METRICS_PORT": str(self.port),
            "EVERESTHOOD_BELL_REPAIR_SECONDS": "0.2",
        }
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "everesthood.entrypoints.scheduler.main"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    async def get(self, path: str) -> tuple[int, str]:
        with contextlib.suppress(httpx2.TransportError):
            async with httpx2.AsyncClient(trust_env=False) as client:
                answer = await client.get(f"http://127.0.0.1:{self.port}{path}")
                return answer.status_code, answer.text
        return 0, ""

    async def leads(self) -> set[str]:
        _, text = await self.get("/metrics")
        return {duty for duty in DUTIES if f'everesthood_duty_leading{{duty="{duty}"}} 1.0' in text}

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(how)
        return self.popen.wait(10)


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = 20.0) -> float:
    began = time.monotonic()
    while not await holds():
        assert time.monotonic() < began + seconds
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    with running_valkey() as started:
        yield started


@pytest.fixture
async def broker(server):
    made = Broker(server)
    yield made
    await made.bell.aclose()
    await made.redis.aclose()


@pytest.fixture
async def record(database_url):
    async with postgres_harness(database_url) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


@pytest.fixture
def start(database_url, broker, tmp_path):
    started: list[Scheduler] = []

    def one() -> Scheduler:
        started.append(Scheduler(database_url, broker, tmp_path))
        return started[-1]

    yield one
    for scheduler in started:
        scheduler.stop()


async def test_the_broker_always_has_the_users_it_should_have(start, broker, server, record):
    """Users come with instances, come back after a restart of Redis, and go with their instance."""
    scheduler = start()

    async def has_user() -> bool:
        with contextlib.suppress(Exception):
            return await broker.users.existing() == {INSTANCE.uid}
        return False

    async def is_ready() -> bool:
        return (await record.registry.queue_state(INSTANCE.uid)).ready

    await until(has_user)
    await until(is_ready)
    with server.user(f"agi-{INSTANCE.uid}", broker_password(BELL_KEY, INSTANCE.uid)) as client:
        assert client.ping()

    server.restart()
    assert await until(has_user) < 8
    with server.user("bell", BELL_PASSWORD) as client:
        assert client.ping()

    await record.registry.remove_instance(INSTANCE.uid)

    async def is_gone() -> bool:
        return not await broker.users.existing() and not await record.clock.queue_owners()

    await until(is_gone)
    text = scheduler.log.read_text()
    assert BELL_PASSWORD not in text
    assert broker_password(BELL_KEY, INSTANCE.uid) not in text


async def test_due_work_is_rung_for_and_lost_runs_are_rescued(start, broker, server, record):
    """Without web and without a living worker, the scheduler alone gets every run moving again."""
    start()
    held = (await record.accept()).run
    (claimed,) = await record.claim()
    assert claimed.run == held
    await record.age(60)

    async def is_queued() -> bool:
        return (await record.run(held)).state is RunState.QUEUED

    async def is_rung() -> bool:
        return broker.waiting(INSTANCE.uid, "r1") == 1

    await until(is_queued)
    await until(is_rung)
    server.flush()
    await until(is_rung)


async def test_deadlines_and_graces_are_kept_by_whoever_leads(start, record):
    """The leader is killed; the next one ends what waits for nobody, and what a worker does not let go of."""
    first, second = start(), start()
    await record.accept()
    await record.accept()
    asking, stubborn = await record.claim()
    await record.hand_in(waits(asking, "ask", seconds=20))

    async def somebody_leads() -> bool:
        return "keep-control" in await first.leads() | await second.leads()

    await until(somebody_leads)
    leader = first if "keep-control" in await first.leads() else second
    leader.stop(signal.SIGKILL)
    await record.runs.cancel("acme", RunId(stubborn.run), "bob", "r", 1)
    await record.age(21)  # the worker's lease still holds

    async def are_over() -> bool:
        return {(await record.run(one.run)).state for one in (asking, stubborn)} <= FINAL

    took = await until(are_over)
    states = [(await record.run(one.run)).state for one in (asking, stubborn)]
    assert states == [RunState.DEAD, RunState.CANCELLED]
    assert took < 10


async def test_schedules_fire_once_although_schedulers_are_killed(start, broker, record):
    """Twice a second a time comes, and the leader dies between two: each time has one run, and the bell rings."""
    first, second = start(), start()
    begin = datetime.now(UTC) + timedelta(seconds=8)
    ticks = tuple(
        Schedule(
            name=f"tick-{n}", cron=None, at=begin + timedelta(seconds=n / 2), time_zone="Etc/UTC",
            overlap=Overlap.ALLOW, missed=Missed.LATEST, max_missed=1, jitter_seconds=0, suspended=False,
            input=b"{}",
        )
        for n in range(20)
    )  # fmt: skip
    await record.registry.publish_instance(replace(INSTANCE, generation=2, schedules=ticks))

    async def fired() -> list[str]:
        async with record.database.acquire() as connection:
            return [row["schedule"] for row in await connection.fetch("select schedule from run")]

    async def some() -> bool:
        return len(await fired()) >= 5

    async def all_of_them() -> bool:
        return len(await fired()) >= len(ticks)

    await until(some)
    leader = first if "fire-schedules" in await first.leads() else second
    leader.stop(signal.SIGKILL)
    await until(all_of_them, seconds=40)

    assert sorted(await fired()) == sorted(tick.name for tick in ticks)
    assert broker.waiting(INSTANCE.uid, "r1") == 1


async def test_of_two_schedulers_one_leads_and_the_other_takes_over(start, broker, record):
    """Each duty has one leader; when it is killed, the other leads within seconds."""
    first = start()

    async def first_leads() -> bool:
        return await first.leads() == set(DUTIES)

    await until(first_leads)
    second = start()

    async def second_is_ready() -> bool:
        return (await second.get("/readyz"))[0] == 200

    await until(second_is_ready)
    await asyncio.sleep(3)
    assert await second.leads() == set()

    first.stop(signal.SIGKILL)

    async def second_leads() -> bool:
        return await second.leads() == set(DUTIES)

    assert await until(second_leads) < 8
    assert second.stop() == 0


async def test_a_scheduler_without_redis_goes_on_with_what_needs_none(start, broker, server, record):
    """While Redis is down runs are still rescued, the rest says so, and nothing restarts."""
    scheduler = start()

    async def leads() -> bool:
        return await scheduler.leads() == set(DUTIES)

    await until(leads)
    server.kill()
    run = (await record.accept()).run
    await record.claim()
    await record.age(60)

    async def is_queued() -> bool:
        return (await record.run(run)).state is RunState.QUEUED

    async def is_unready() -> bool:
        status, text = await scheduler.get("/readyz")
        return status == 503 and "keep-broker-users" in text and "rescue-runs" not in text

    await until(is_queued)
    await until(is_unready, 30)
    assert (await scheduler.get("/healthz"))[0] == 200


async def test_a_missing_setting_is_named(tmp_path):
    """A scheduler that lacks a key ends with one sentence that says which setting is missing."""
    environment = {**os.environ, "EVERESTHOOD_DATABASE_URL": "postgresql://nowhere"}
    done = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "everesthood.entrypoints.scheduler.main"),
        env=environment,
        stderr=subprocess.PIPE,
    )
    _, said = await done.communicate()

    assert done.returncode == 1
    assert said.decode().strip() == "Set EVERESTHOOD_BELL_KEY_FILE to the path of a file."
