"""A real Valkey with the users, the bell and the key of an installation."""

import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

from tests.support.valkey import ValkeyServer, running_valkey

from everesthood.adapters.celery import BellConsumer
from everesthood.adapters.redis import RedisAddress, RedisBell, RedisBrokerUsers, connect
from everesthood.apis import names
from everesthood.apis.wire import QueueLease
from everesthood.domain.broker import broker_password

BELL_KEY = b"a bell key of a test, long enough for anybody"
BELL_PASSWORD = "password-of-the-bell-user"


class Broker:
    """What scheduler, web and gateway have of Redis."""

    def __init__(self, server: ValkeyServer) -> None:
        self.server = server
        self.key_file = server.folder / "bell-key"
        self.key_file.write_bytes(BELL_KEY + b"\n")
        self.bell_password_file = server.folder / "bell-password"
        self.bell_password_file.write_text(BELL_PASSWORD + "\n")
        self.redis = connect(self.address("default", str(server.password_file)), process="scheduler")
        self.users = RedisBrokerUsers(
            self.redis, bell_key_file=str(self.key_file), bell_password_file=str(self.bell_password_file)
        )
        self.bell = RedisBell(connect(self.address("bell", str(self.bell_password_file)), process="web"))

    def address(self, user: str, password_file: str) -> RedisAddress:
        return RedisAddress(host="127.0.0.1", port=self.server.port, user=user, password_file=password_file)

    def lease(self, uid: str = "uid-a", revision: str = "r1") -> QueueLease:
        return QueueLease(
            host="127.0.0.1",
            port=self.server.port,
            user=names.broker_user(uid),
            password=broker_password(BELL_KEY, uid),
            prefix=names.queue_prefix(uid),
            queue=names.queue_name(revision),
        )

    async def ring(self, uid: str = "uid-a", revision: str = "r1") -> None:
        await self.bell.ring(uid, revision)
        await self.bell.flush()

    def waiting(self, uid: str = "uid-a", revision: str = "r1") -> int:
        with self.server.admin() as client:
            return int(client.llen(names.queue_prefix(uid) + names.queue_name(revision)))


@contextlib.asynccontextmanager
async def broker_on(server: ValkeyServer) -> AsyncIterator[Broker]:
    """Yield an installation's broker with the bell user and one instance's user made."""
    broker = Broker(server)
    await broker.users.ensure_bell()
    await broker.users.ensure("uid-a")
    try:
        yield broker
    finally:
        await broker.bell.aclose()
        await broker.redis.aclose()


class Ear:
    """A Celery consumer in a thread, and what it heard."""

    def __init__(self, lease: QueueLease) -> None:
        self.bells = 0
        self.lines: list[bool] = []
        self._changed = threading.Condition()
        self.consumer = BellConsumer(lease, name="pod-1", on_bell=self._bell, on_line=self._line)
        self.thread = threading.Thread(target=self.consumer.run, daemon=True)

    def _bell(self) -> None:
        with self._changed:
            self.bells += 1
            self._changed.notify_all()

    def _line(self, up: bool) -> None:
        with self._changed:
            self.lines.append(up)
            self._changed.notify_all()

    @property
    def is_up(self) -> bool:
        return bool(self.lines and self.lines[-1])

    def until(self, condition: Callable[["Ear"], bool], seconds: float = 15.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), (self.bells, self.lines)


@contextlib.contextmanager
def listening(lease: QueueLease) -> Iterator[Ear]:
    """Listen as a worker does, until the block ends."""
    ear = Ear(lease)
    ear.thread.start()
    try:
        yield ear
    finally:
        ear.consumer.stop()
        ear.thread.join(10)
        assert not ear.thread.is_alive()


@contextlib.contextmanager
def fresh_valkey() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


def seconds_since(began: float) -> float:
    return time.monotonic() - began
