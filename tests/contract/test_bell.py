"""What rings and who hears: the same in memory and in a real Valkey."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest
from tests.support.broker import broker_on
from tests.support.valkey import running_valkey

from everesthood.adapters.memory.bell import MemoryBell, MemoryBrokerUsers
from everesthood.domain.bells import queue_key

pytestmark = pytest.mark.contract


class Take(Protocol):
    def __call__(self, uid: str, revision: str) -> bool: ...


@dataclass
class Harness:
    """A bell, its users, and a worker's way to take a message."""

    bell: Any
    users: Any
    flush: Any
    waiting: Any
    hear: Take
    lose_everything: Any


async def _at_once() -> None: ...


def in_memory() -> Harness:
    bell, users = MemoryBell(), MemoryBrokerUsers()

    def lose_everything() -> None:
        bell.lose_everything()
        users.lose_everything()

    return Harness(bell, users, _at_once, lambda u, r: bell.waiting[(u, r)], bell.hear, lose_everything)


@pytest.fixture(params=["memory", "valkey"])
async def broker(request: pytest.FixtureRequest) -> AsyncIterator[Harness]:
    if request.param == "memory":
        yield in_memory()
        return
    with running_valkey() as server:
        async with broker_on(server) as real:
            await real.users.remove("uid-a")

            def hear(uid: str, revision: str) -> bool:
                with server.admin() as client:
                    return client.rpop(queue_key(uid, revision)) is not None

            yield Harness(real.bell, real.users, real.bell.flush, real.waiting, hear, server.restart)


async def ring(broker: Harness, times: int = 1, uid: str = "a", revision: str = "r1") -> None:
    for _ in range(times):
        await broker.bell.ring(uid, revision)
    await broker.flush()


async def test_many_rings_are_one_message(broker: Harness):
    """A flood of accepted runs wakes a worker once."""
    await ring(broker, times=50)
    await ring(broker, times=50)

    assert broker.waiting("a", "r1") == 1


async def test_a_bell_that_was_heard_rings_no_more_until_it_is_settled(broker: Harness):
    """While a worker drains, new work does not ring; after it settled, it does."""
    await ring(broker)
    assert broker.hear("a", "r1")

    await ring(broker)
    assert broker.waiting("a", "r1") == 0

    await broker.bell.settle("a", "r1")
    await ring(broker)
    assert broker.waiting("a", "r1") == 1


async def test_a_queue_that_nobody_hears_stays_one_message_long(broker: Harness):
    """However often a deaf queue is rung again, it does not grow."""
    for _ in range(3):
        await ring(broker)
        await broker.bell.settle("a", "r1")
    await ring(broker)

    assert broker.waiting("a", "r1") == 1


async def test_queues_are_rung_one_by_one(broker: Harness):
    """A bell wakes workers of its own instance and revision only."""
    await ring(broker, uid="a", revision="r1")
    await ring(broker, uid="a", revision="r2")
    await ring(broker, uid="b", revision="r1")

    assert [broker.waiting(*queue) for queue in (("a", "r1"), ("a", "r2"), ("b", "r1"), ("b", "r2"))] == [
        *(1, 1, 1, 0)
    ]


async def test_settling_what_does_not_ring_does_no_harm(broker: Harness):
    """A worker may settle at any time."""
    await broker.bell.settle("a", "r1")
    await ring(broker)

    assert broker.waiting("a", "r1") == 1


async def test_users_exist_from_ensure_to_remove(broker: Harness):
    """An instance's user is made once or often, and goes for good."""
    await broker.users.ensure("a")
    await broker.users.ensure("a")
    await broker.users.ensure("b")
    assert await broker.users.existing() == {"a", "b"}

    await broker.users.remove("a")
    await broker.users.remove("a")
    assert await broker.users.existing() == {"b"}


async def test_what_a_restarted_broker_forgot_can_be_made_again(broker: Harness):
    """Users and bells survive a restart only by being made again, and that is all it takes."""
    await broker.users.ensure("a")
    await ring(broker)

    broker.lose_everything()

    assert await broker.users.existing() == frozenset()
    await broker.users.ensure("a")
    await broker.users.ensure_bell()
    await ring(broker)
    assert await broker.users.existing() == {"a"}
    assert broker.waiting("a", "r1") == 1
