"""A Celery worker with its own Redis user hears its bell, through everything that can befall Redis."""

import asyncio
import base64
import json
import time

import pytest
from celery import Celery
from tests.support.broker import BELL_KEY, Ear, broker_on, listening
from tests.support.valkey import running_valkey

from everesthood.domain.broker import broker_password

pytestmark = [
    pytest.mark.integration,
    # Celery announces what its next major version will do, whenever a connection is lost.
    pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning"),
]


@pytest.fixture
def server():
    with running_valkey() as started:
        yield started


@pytest.fixture
async def broker(server):
    async with broker_on(server) as made:
        yield made


async def heard(ear: Ear, bells: int) -> None:
    await asyncio.to_thread(ear.until, lambda it: it.bells >= bells)


async def up(ear: Ear) -> None:
    await asyncio.to_thread(ear.until, lambda it: it.is_up)


async def deaf(ear: Ear) -> None:
    await asyncio.to_thread(ear.until, lambda it: not it.is_up)


async def test_a_worker_hears_its_bell_with_nothing_but_its_own_rights(broker):
    """From the first connection on, nothing that the worker needs is refused to it."""
    with listening(broker.lease()) as ear:
        await up(ear)
        await broker.ring()
        await heard(ear, 1)

    denied = {entry["object"] for entry in await broker.redis.acl_log()}
    assert denied <= {"client|setinfo"}, "only the name of the client library is not welcome"


async def test_a_bell_from_before_the_worker_came_is_heard(broker):
    """Whoever rings need not know whether anybody listens."""
    await broker.ring()

    with listening(broker.lease()) as ear:
        await heard(ear, 1)

    assert broker.waiting() == 0


async def test_bells_of_others_are_not_heard(broker):
    """Another revision's bell and another instance's bell wake nobody here."""
    await broker.users.ensure("uid-b")
    with listening(broker.lease()) as ear:
        await up(ear)
        await broker.ring(revision="r2")
        await broker.ring(uid="uid-b")
        await broker.ring()
        await heard(ear, 1)

    assert ear.bells == 1
    assert broker.waiting(revision="r2") == broker.waiting(uid="uid-b") == 1


async def test_a_doubled_bell_only_wakes_twice(broker, server):
    """The same message delivered twice does no more than waking twice or once."""
    with server.admin() as client:
        await broker.ring()
        message = client.lindex("agi:uid-a:drain.r1", 0)
        client.lpush("agi:uid-a:drain.r1", message)

        with listening(broker.lease()) as ear:
            await heard(ear, 1)
            await broker.bell.settle("uid-a", "r1")
            await broker.ring()
            await heard(ear, 2)
            assert ear.thread.is_alive()


@pytest.mark.parametrize(
    "poison",
    [
        b"not json",
        b"{}",
        b'{"body": 1, "headers": {}, "properties": {}}',
        json.dumps(
            {
                "body": base64.b64encode(b"cposix\nsystem\n(S'touch was-here'\ntR.").decode(),
                "content-type": "application/x-python-serialize",
                "content-encoding": "binary",
                "headers": {"task": "everesthood.drain", "id": "x"},
                "properties": {
                    "body_encoding": "base64",
                    "delivery_tag": "t",
                    "delivery_info": {"exchange": "", "routing_key": "drain.r1"},
                },
            }
        ).encode(),
    ],
    ids=["no json", "empty", "malformed", "pickle"],
)
async def test_a_broken_or_hostile_message_is_survived(broker, server, poison, tmp_path, monkeypatch):
    """Garbage in the queue, even a pickle, neither runs nor deafens the line for good."""
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # what listens is started again when it dies, as the worker process does
        with listening(broker.lease()) as ear:
            await up(ear)
            with server.admin() as client:
                client.lpush("agi:uid-a:drain.r1", poison)
                while client.llen("agi:uid-a:drain.r1"):
                    await asyncio.sleep(0.01)
        poison = b"{}"

    with listening(broker.lease()) as ear:
        await up(ear)
        await broker.ring()
        await heard(ear, 1)

    assert not list(tmp_path.iterdir()), "the pickle was executed"


async def test_a_killed_redis_is_survived_and_the_next_bell_heard(broker, server):
    """The worker reconnects by itself, also while its user is not made yet."""
    with listening(broker.lease()) as ear:
        await up(ear)
        server.kill()
        await deaf(ear)
        server.start()
        await asyncio.sleep(3)  # it tries with a user that Redis has forgotten
        assert not ear.is_up
        await broker.users.ensure_bell()
        await broker.users.ensure("uid-a")
        await up(ear)
        await broker.ring()
        await heard(ear, 1)

    assert ear.bells == 1


async def test_an_emptied_redis_is_not_even_noticed(broker, server):
    """A flush takes the bells that hung there and nothing else; the next one is heard."""
    with listening(broker.lease()) as ear:
        await up(ear)
        server.flush()
        await broker.ring()
        await heard(ear, 1)
        server.flush()
        await broker.ring()
        await heard(ear, 2)

    assert ear.lines == [True, False]


async def test_a_frozen_redis_is_noticed_or_waited_for(broker, server):
    """A server that stops answering for a while and comes back is heard again."""
    with listening(broker.lease()) as ear:
        await up(ear)
        server.freeze()
        await broker.bell.ring("uid-a", "r1")
        await asyncio.sleep(1)
        server.thaw()
        await broker.bell.flush()
        await heard(ear, 1)


async def test_nothing_of_a_bell_stays_behind(broker, server):
    """Early acknowledgement: no message waits in a visibility timeout to be run again."""
    with listening(broker.lease()) as ear:
        for bells in range(1, 4):
            await broker.bell.settle("uid-a", "r1")
            await broker.ring()
            await heard(ear, bells)
        with server.admin() as client:
            deadline = time.monotonic() + 5
            while client.exists("agi:uid-a:unacked", "agi:uid-a:unacked_index"):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


async def test_an_idle_worker_costs_two_connections_and_no_channel(broker, server):
    """A thousand idle workers are two thousand connections, not ten thousand."""
    with listening(broker.lease()) as ear:
        await up(ear)
        await broker.ring()
        await heard(ear, 1)
        with server.admin() as client:
            own = [one for one in client.client_list() if one["user"] == "agi-uid-a"]
            channels = client.pubsub_channels()

    assert len(own) <= 2
    assert channels == []


async def test_a_message_of_celerys_own_is_heard_too(broker, server):
    """A person with the right password may ring with plain Celery: the format is the same."""
    lease = broker.lease()
    app = Celery("someone", broker=f"redis://{lease.user}:{lease.password}@127.0.0.1:{lease.port}/0")
    app.conf.broker_transport_options = {"global_keyprefix": lease.prefix}
    with listening(lease) as ear:
        await up(ear)
        await asyncio.to_thread(app.send_task, "everesthood.drain", queue=lease.queue, ignore_result=True)
        await heard(ear, 1)
    app.close()


async def test_a_dead_redis_costs_who_rings_next_to_nothing(broker, server):
    """Accepting a run never waits for Redis, and never fails because of it."""
    server.kill()
    began = time.monotonic()
    for _ in range(100):
        await broker.bell.ring("uid-a", "r1")
        await broker.bell.settle("uid-a", "r1")

    assert time.monotonic() - began < 0.5


async def test_ringing_heals_after_redis_was_restarted(broker, server):
    """Web and gateway ring again on their old connection pool, a moment after Redis is back."""
    await broker.ring()
    server.restart()
    await broker.users.ensure_bell()

    deadline = time.monotonic() + 10
    while not broker.waiting():
        assert time.monotonic() < deadline
        await broker.ring()
        await asyncio.sleep(0.05)


async def test_no_password_is_in_any_log_line(broker, server, caplog):
    """A lost line is logged with its address and without its password."""
    caplog.set_level("DEBUG")
    with listening(broker.lease()) as ear:
        await up(ear)
        server.kill()
        await deaf(ear)
        await asyncio.sleep(0.5)

    assert "Cannot connect" in caplog.text
    assert broker_password(BELL_KEY, "uid-a") not in caplog.text
