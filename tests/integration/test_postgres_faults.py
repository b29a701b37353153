"""PostgreSQL dies, hangs and comes back: nothing is half accepted, nothing hangs, all recovers by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import pytest
from tests.support.postgres import PostgresServer, running_postgres
from tests.support.record import INSTANCE, Harness, finish, postgres_harness, seat, wish

from everesthood.adapters.postgres import Database, migrate
from everesthood.apis.wire import WorkRequest
from everesthood.domain.errors import Unavailable
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
async def record(own_server: PostgresServer) -> AsyncIterator[Harness]:
    database = Database(lambda: own_server.url)
    await migrate(database)
    async with database.acquire() as connection:
        await connection.execute("truncate instance, run, step, run_log, idempotency, audit cascade")
    await database.close()
    async with postgres_harness(own_server.url) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


async def _restart(server: PostgresServer) -> None:
    await asyncio.to_thread(server.start)


async def test_a_crash_in_the_middle_accepts_nothing_by_halves(own_server: PostgresServer, record: Harness):
    """What was answered is there after the crash; what was not may be sent again under its key."""
    answered: dict[str, str] = {}
    failed: list[int] = []

    async def accept(n: int) -> None:
        key = f"key-{n}"
        try:
            answered[key] = (
                await record.runs.accept(wish(idempotency_key=key, request_digest=key.encode()))
            ).run
        except Unavailable:
            failed.append(n)

    async def flood() -> None:
        for n in range(0, 4000, 40):
            await asyncio.gather(*(accept(n + i) for i in range(40)))
            if failed:
                return

    flooding = asyncio.create_task(flood())
    while len(answered) < 200:
        await asyncio.sleep(0.001)
    own_server.kill()
    async with asyncio.timeout(20):
        await flooding
    assert failed
    with pytest.raises(Unavailable):
        await record.accept()

    await _restart(own_server)
    for n in failed:
        await accept(n)

    async with record.database.acquire() as connection:
        rows = await connection.fetch(
            "select r.id::text, i.key from run r full join idempotency i on i.run_id = r.id"
        )
        audited = await connection.fetchval("select count(*) from audit where action = 'run.accept'")
    assert {row["key"]: row["id"] for row in rows} == answered
    assert len(rows) == audited == len(answered)


async def test_work_goes_on_after_a_crash(own_server: PostgresServer, record: Harness):
    """A worker's call fails while the server is away, and the same call counts once it is back."""
    accepted = await record.accept()
    (held,) = await record.claim()
    own_server.kill()
    handed_in = WorkRequest(finished=(finish(held),))
    for call in (
        record.work.work(seat(), handed_in),
        record.clock.rescue(),
        record.registry.queue_state("uid-a"),
        record.runs.list(RunFilter(namespace="acme")),
        record.runs.cancel("acme", accepted.run, "bob", "r"),
    ):
        with pytest.raises(Unavailable):
            await call

    await _restart(own_server)
    reply = await record.work.work(seat(), handed_in)

    assert reply.lost == ()
    assert (await record.run(accepted.run)).state is RunState.SUCCEEDED


async def test_a_server_that_hangs_is_given_up(own_server: PostgresServer, record: Harness):
    """A frozen server costs seconds, not for ever: a new connection three, a statement sixteen."""
    fresh = Database(lambda: own_server.url)
    await record.accept()
    own_server.freeze()
    started = time.monotonic()
    try:
        with pytest.raises(Unavailable):
            await fresh.fetch("known_instances")
        connecting = time.monotonic() - started
    finally:
        own_server.thaw()

    assert connecting < 5
    assert len(await record.claim()) == 1
    await fresh.close()


async def test_listeners_and_leaders_come_back(own_server: PostgresServer, record: Harness):
    """After a crash a watcher is woken again, and the lead of a duty is lost and won anew."""
    accepted = await record.accept()
    watch, lead = record.runs.watch(accepted.run), record.clock.lead("rescue")
    await anext(watch)
    assert await anext(lead)
    lost = asyncio.ensure_future(anext(lead))
    own_server.kill()

    async with asyncio.timeout(10):
        assert not await lost
    await _restart(own_server)
    async with asyncio.timeout(10):
        assert await anext(lead)
        await anext(watch)
    await lead.aclose()
    await watch.aclose()


async def test_a_slow_reader_does_not_hold_others_up(record: Harness):
    """A transaction that somebody forgot ends by itself, and its locks with it."""
    accepted = await record.accept()
    with suppress(Unavailable):
        async with record.database.transaction() as connection:
            await connection.execute("set local idle_in_transaction_session_timeout = 200")
            await connection.fetch("select 1 from run where id = $1::uuid for update", accepted.run)
            async with asyncio.timeout(5):
                run = await record.runs.cancel("acme", accepted.run, "bob", "r")

    assert run is not None
    assert run.state is RunState.CANCELLED
