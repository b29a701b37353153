"""Nobody who knows one instance's broker password reaches anything of another instance, or the server."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError
from tests.support.broker import BELL_KEY, BELL_PASSWORD, broker_on
from tests.support.valkey import ValkeyServer, free_port, running_valkey

from everesthood.domain.broker import broker_password
from everesthood.domain.errors import Unavailable

pytestmark = pytest.mark.integration

OTHER = "agi:uid-b:drain.r1"
REFUSED = [
    # another instance's data
    *(f"{command} {OTHER}" for command in ("GET", "LLEN", "SMEMBERS", "DEL")),
    f"BRPOP {OTHER} 1",
    f"LPUSH {OTHER} x",
    f"SET {OTHER} x",
    "SET agi:uid-b:bell.r1 1 PX 86400000",
    "RPUSH agi:uid-bb:drain.r1 x",
    "HGET agi:uid-b:unacked tag",
    "GET anything",
    # what would list keys, users or people
    *("KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "INFO", "CLIENT LIST", "CLIENT KILL ID 1", "CLIENT INFO"),
    *("ACL LIST", "ACL WHOAMI", "ACL USERS", "ACL GETUSER default", "ACL SETUSER agi-uid-a allkeys"),
    # what would change or stop the server
    *("CONFIG GET *", "CONFIG SET maxmemory 1", "FLUSHALL", "FLUSHDB", "SHUTDOWN"),
    *("SAVE", "REPLICAOF 127.0.0.1 1", "MODULE LIST", "SLOWLOG GET", "LATENCY LATEST", "MONITOR"),
    # code
    *("EVAL return 0", "FUNCTION LIST", "FUNCTION FLUSH", "SCRIPT FLUSH", "SCRIPT EXISTS x"),
    # channels
    *("PUBLISH c x", "SUBSCRIBE c", "PSUBSCRIBE *", "PUBSUB CHANNELS", "SPUBLISH c x"),
    # databases and copies
    *("SWAPDB 0 1", "MOVE agi:uid-a:x 1", "COPY agi:uid-a:x agi:uid-b:x", "RENAME agi:uid-a:x agi:uid-b:x"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    async def make_users() -> None:
        async with broker_on(started) as broker:
            await broker.users.ensure("uid-b")

    with running_valkey() as started:
        asyncio.run(make_users())
        yield started


@pytest.fixture
def worker(server: ValkeyServer) -> Iterator[Redis]:
    with server.user("agi-uid-a", broker_password(BELL_KEY, "uid-a")) as client:
        yield client


@pytest.mark.parametrize("command", REFUSED)
def test_a_worker_is_refused(worker: Redis, command: str):
    """A worker that is taken over can do none of this."""
    with pytest.raises(NoPermissionError):
        worker.execute_command(*command.split(" "))


@pytest.mark.parametrize("call", ["GET", "DEL", "LLEN"])
def test_a_script_opens_no_other_door(worker: Redis, call: str):
    """A script, the one thing that cannot be withheld, runs under the same rights."""
    sha = worker.script_load(f"return redis.call('{call}', ARGV[1])")

    with pytest.raises(RedisError, match="(?i)permission"):
        worker.evalsha(sha, 0, OTHER)


@pytest.mark.parametrize("call", ["FLUSHALL", "KEYS *", "CONFIG GET *", "PUBLISH c x", "ACL LIST"])
def test_a_script_runs_no_other_command(worker: Redis, call: str):
    """What a worker may not call, its scripts may not either."""
    words = ", ".join(f"'{word}'" for word in call.split())
    sha = worker.script_load(f"return redis.call({words})")

    with pytest.raises(RedisError, match="(?i)permission|not allowed from script|not run this command"):
        worker.evalsha(sha, 0)


def test_a_worker_can_use_its_own_keys(worker: Redis):
    """The wall is around others: its own queue is there."""
    worker.lpush("agi:uid-a:drain.r1", "x")

    assert worker.llen("agi:uid-a:drain.r1") == 1


def test_no_password_opens_another_user(server: ValkeyServer):
    """One instance's password, the bell's or none lets nobody in as another."""
    own = broker_password(BELL_KEY, "uid-a")
    for user, password in (("agi-uid-b", own), ("default", own), ("agi-uid-a", BELL_PASSWORD)):
        with server.user(user, password) as client, pytest.raises(AuthenticationError):
            client.ping()
    with Redis(port=server.port) as nobody, pytest.raises(AuthenticationError):
        nobody.ping()


@pytest.mark.parametrize(
    "command",
    [
        *(
            "GET agi:uid-a:x",
            "KEYS *",
            "SCAN 0",
            "BRPOP agi:uid-a:drain.r1 1",
            "LRANGE agi:uid-a:drain.r1 0 9",
        ),
        *(
            "ACL LIST",
            "FLUSHALL",
            "CONFIG GET *",
            "EVAL return 0",
            "SET other:key x",
            "MONITOR",
            "SUBSCRIBE c",
        ),
    ],
)
def test_who_rings_is_refused(server: ValkeyServer, command: str):
    """Web and gateway can ring; taken over, they can read no queue and make no user."""
    with server.user("bell", BELL_PASSWORD) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split(" "))


async def test_removing_a_user_ends_its_connections_and_its_keys_and_nobody_elses():
    """After an instance is deleted nothing of it is left, not even a connection that was open."""
    with running_valkey() as server:
        async with broker_on(server) as broker:
            await broker.users.ensure("uid-b")
            with (
                server.user("agi-uid-a", broker_password(BELL_KEY, "uid-a")) as gone,
                server.admin() as admin,
            ):
                gone.set("agi:uid-a:anything", "x")
                admin.set(OTHER, "stays")

                await broker.users.remove("uid-a")

                assert admin.keys("*") == [OTHER]
                with contextlib.closing(gone), pytest.raises(AuthenticationError):
                    gone.get("agi:uid-a:anything")
            assert await broker.users.existing() == {"uid-b"}


async def test_a_redis_cluster_is_refused_with_the_next_step():
    """Whoever gives us a cluster reads that and what to give instead, not that a slot has moved."""
    with running_valkey("cluster-enabled yes", f"cluster-port {free_port()}") as server:
        async with broker_on(server) as broker:
            with pytest.raises(Unavailable, match="cluster.*not supported: give redis.external the address"):
                await broker.users.existing()


async def test_no_password_is_sent_to_redis_in_the_clear(caplog: pytest.LogCaptureFixture):
    """Redis is told digests: what it can show to an administrator opens nothing."""
    with running_valkey() as server:
        async with broker_on(server) as broker:
            shown = await broker.redis.execute_command("ACL LIST")

    assert broker_password(BELL_KEY, "uid-a") not in f"{shown} {caplog.text}"
    assert BELL_PASSWORD not in f"{shown} {caplog.text}"
