"""The worker as a process of its own, with a real Valkey: it works with the bell, and without it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from tests.support.broker import BELL_KEY, broker_on
from tests.support.plain_gateway import REVISION, TOKEN, UID, PlainGateway, plain_gateway
from tests.support.valkey import free_port, running_valkey

from everesthood.domain.broker import broker_password
from everesthood.usecases.repair_bells import repair_bells

pytestmark = pytest.mark.integration

CODE = "import asyncio\n\nasync def wait(context):\n    context.log('begun')\n    await asyncio.sleep(600)\n"


class Process:
    """A running worker."""

    def __init__(self, url: str, folder: Path, **settings: str) -> None:
        token = folder / "token"
        token.write_text(TOKEN)
        self.port = free_port()
        self.log = folder / "worker.log"
        environment = {
            **os.environ,
            "EVERESTHOOD_GATEWAY_URL": url,
            "EVERESTHOOD_GATEWAY_TOKEN_FILE": str(token),
            "EVERESTHOOD_REVISION": REVISION,
            "EVERESTHOOD_IDENTITY": "agent-abc-xyz",
            "EVERESTHOOD_METRICS_PORT": str(self.port),
            "EVERESTHOOD_WORKER_GRACE_SECONDS": "1",
            "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]),
            **settings,
        }
        self.started_at = time.time()
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", "everesthood.entrypoints.worker.main"],
                env=environment,
                stdout=log,
                stderr=log,
            )

    def ask(self, path: str) -> httpx2.Response | None:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"http://127.0.0.1:{self.port}{path}", trust_env=False)
        return None

    def until(self, path: str, holds, seconds: float = 20.0) -> str:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self.ask(path)
            if answer is not None and holds(answer):
                return answer.text
            time.sleep(0.02)
        raise AssertionError(f"{path}: {self.ask(path)}\n{self.log.read_text()}")

    def until_listening(self) -> None:
        self.until("/metrics", lambda answer: "everesthood_worker_queue_connected 1.0" in answer.text)

    def stop(self, seconds: float = 10.0) -> int:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise


@contextlib.contextmanager
def worker(url: str, folder: Path, **settings: str) -> Iterator[Process]:
    process = Process(url, folder, **settings)
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def server():
    with running_valkey() as started:
        yield started


@pytest.fixture
async def broker(server):
    async with broker_on(server) as made:
        yield made


@pytest.fixture
def gateway(broker, server) -> Iterator[tuple[PlainGateway, str]]:
    def settle(key: str) -> None:
        with contextlib.suppress(Exception), server.admin() as client:
            client.delete(key)

    with plain_gateway(broker.lease(), settle) as made:
        yield made


async def test_a_worker_works_from_its_start_to_its_end(broker, gateway, tmp_path):
    """It claims at once, is ready, hears its bell, and ends with nothing in hand."""
    runs, url = gateway
    runs.add(3)
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(runs.until_over, 3)
        await asyncio.to_thread(process.until_listening)
        await asyncio.to_thread(process.until, "/readyz", lambda answer: answer.status_code == 200)
        await asyncio.to_thread(process.until, "/healthz", lambda answer: answer.status_code == 200)

        runs.add()
        began = time.monotonic()
        await broker.bell.settle(UID, REVISION)
        await broker.ring()
        await asyncio.to_thread(runs.until_over, 4)
        took = time.monotonic() - began

        assert await asyncio.to_thread(process.stop) == 0
    assert took < 2, "the bell was not what woke it"
    assert broker_password(BELL_KEY, UID) not in process.log.read_text()
    assert TOKEN not in process.log.read_text()


async def test_a_worker_works_although_redis_is_down(server, gateway, tmp_path):
    """Without a bell work starts later, by some seconds, and loses nothing."""
    runs, url = gateway
    server.kill()
    runs.add()
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(runs.until_over, 1)
        await asyncio.to_thread(process.until, "/readyz", lambda answer: answer.status_code == 200)
        runs.add(5)
        await asyncio.to_thread(runs.until_over, 6)
        assert process.ask("/healthz").status_code == 200


async def test_all_is_worked_off_after_redis_was_emptied_and_restarted(broker, server, gateway, tmp_path):
    """Work that was queued when Redis forgot everything is done, each run once."""
    runs, url = gateway
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(process.until_listening)
        runs.add(200)
        await broker.ring()
        server.flush()
        server.restart()
        runs.add(200)
        await broker.users.ensure_bell()
        await broker.users.ensure(UID)
        await repair_bells(clock=runs, bell=broker.bell, older_than_seconds=2)
        await asyncio.to_thread(runs.until_over, 400)

    assert not runs.queued
    assert not runs.held


async def test_a_lost_bell_is_rung_again(broker, server, gateway, tmp_path):
    """A bell that got lost delays its work until the scheduler looks again."""
    runs, url = gateway
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(process.until_listening)
        await asyncio.sleep(0.5)  # until it rests
        runs.add()  # and nobody rings

        await repair_bells(clock=runs, bell=broker.bell, older_than_seconds=2)

        await asyncio.to_thread(runs.until_over, 1, 3)


async def test_a_queue_that_is_not_made_yet_is_asked_for_again(broker, gateway, tmp_path):
    """A worker that is faster than the scheduler works meanwhile, and listens once its queue is there."""
    runs, url = gateway
    good = broker.lease()
    runs.lease = None  # the queue is not ready yet: the gateway says so
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(process.until, "/readyz", lambda answer: answer.status_code == 200)
        runs.lease = good
        await asyncio.to_thread(process.until_listening)


async def test_a_worker_waits_for_its_gateway(gateway, tmp_path):
    """Started before the gateway, it is alive, not ready, and begins when the gateway is there."""
    runs, url = gateway
    runs.is_down = True
    runs.add()
    with worker(url, tmp_path) as process:
        said = await asyncio.to_thread(process.until, "/readyz", lambda answer: answer.status_code == 503)
        assert process.ask("/healthz").status_code == 200
        assert "waits for the gateway" in said

        runs.is_down = False
        await asyncio.to_thread(runs.until_over, 1)


async def test_a_worker_that_is_told_to_stop_hands_back_what_it_holds(gateway, tmp_path):
    """After its grace a run goes back to the queue at once, not when its lease runs out."""
    runs, url = gateway
    (tmp_path / "slow.py").write_text(CODE)
    runs.spec = {"steps": [{"name": "wait", "code": {"entrypoint": "slow:wait"}}]}
    runs.add()
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(runs.until, lambda it: bool(it.lines))
        began = time.monotonic()
        assert await asyncio.to_thread(process.stop) == 0
        took = time.monotonic() - began

    assert {run: end.outcome for run, end in runs.ended.items()} == {"run-0": "released"}
    assert 1 <= took < 8


async def test_a_worker_that_leaves_is_deaf_and_lives_until_it_is_stopped(broker, gateway, tmp_path):
    """Bells are for the others from then on; it claims nothing, stays in health, and ends when told."""
    runs, url = gateway
    runs.add()
    with worker(url, tmp_path) as process:
        await asyncio.to_thread(runs.until_over, 1)
        await asyncio.to_thread(process.until_listening)
        runs.too_many = True
        await broker.bell.settle(UID, REVISION)
        await broker.ring()
        await asyncio.to_thread(runs.until, lambda it: it.left)
        deaf = "everesthood_worker_queue_connected 0.0"
        await asyncio.to_thread(process.until, "/metrics", lambda answer: deaf in answer.text)
        runs.too_many = False
        runs.add()
        calls = len(runs.claims_at)
        await asyncio.to_thread(runs.until, lambda it: len(it.claims_at) > calls + 1)

        assert (process.popen.poll(), runs.queued, runs.held) == (None, ["run-1"], {})
        assert process.ask("/healthz").status_code == process.ask("/readyz").status_code == 200
        assert await asyncio.to_thread(process.stop) == 0


def test_a_worker_without_a_revision_says_what_is_missing(tmp_path):
    """A worker that lacks a setting ends with one sentence that names it."""
    process = Process("http://127.0.0.1:9", tmp_path, EVERESTHOOD_REVISION="")

    assert process.popen.wait(20) == 1
    assert process.log.read_text().strip().endswith("which revision does this worker execute?")
