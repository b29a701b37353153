"""Identities and permissions are remembered exactly as long as is safe."""

import asyncio

import pytest
from tests.support.reviews import FakeApiServer

from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.domain.access import REQUIRED
from everesthood.domain.errors import Forbidden, Unauthenticated, Unavailable
from everesthood.usecases import authorize
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.identity import Identity

RUN = REQUIRED["createRun"]


class World:
    def __init__(self):
        self.server = FakeApiServer()
        self.time = 0.0
        self.authorizer = Authorizer(KubernetesIdentities(self.server), lambda: self.time)

    async def may(self, who, name="one"):
        try:
            await self.authorizer.require(Identity(username=who), RUN, "acme", name)
        except Forbidden:
            return False
        return True


@pytest.fixture
def world():
    return World()


async def test_tokens_of_our_audience_and_of_the_api_server_are_known(world):
    """A person's own kubeconfig token works as well as one made for this API."""
    world.server.know("ours", "ada", "everesthood-web")
    world.server.know("default", "bob")

    assert (await world.authorizer.authenticate("ours")).username == "ada"
    assert (await world.authorizer.authenticate("default")).username == "bob"


async def test_a_workers_token_is_no_key_to_this_api(world):
    """A token for the gateway is refused here."""
    world.server.know("worker", "system:serviceaccount:acme:agent-a", "everesthood-gateway")

    with pytest.raises(Unauthenticated):
        await world.authorizer.authenticate("worker")


async def test_an_identity_is_asked_for_once_a_minute(world):
    """A revoked token stops working within 60 s, and a busy client does not flood the API server."""
    world.server.know("t", "ada", "everesthood-web")
    for world.time in (0, 30, 59.9):
        await world.authorizer.authenticate("t")
    assert world.server.calls["tokenreviews"] == 1

    del world.server.tokens["t"]
    world.time = 60.1
    with pytest.raises(Unauthenticated):
        await world.authorizer.authenticate("t")


async def test_a_permission_lasts_ten_seconds_and_a_refusal_two(world):
    """A withdrawn right is gone within 10 s; a new one is there within 2 s."""
    assert not await world.may("ada")
    world.server.grant("ada", "acme", "create run")
    assert not await world.may("ada")
    world.time = 2.1
    assert await world.may("ada")
    world.server.grants.clear()
    world.time = 12.0
    assert await world.may("ada")
    world.time = 12.2
    assert not await world.may("ada")


async def test_permissions_of_one_are_not_those_of_another(world):
    """What is remembered belongs to the caller, the namespace, the verb and the instance."""
    world.server.grant("ada", "acme", "create run", name="one")

    assert await world.may("ada", "one")
    assert not await world.may("bob", "one")
    assert not await world.may("ada", "two")
    assert not await world.may("ada", "")


async def test_whoever_may_do_it_to_all_is_asked_about_once(world):
    """A caller of a hundred instances costs one review; one who may call two of them is asked about each."""
    world.server.grant("ada", "acme", "create run")
    for name in ("one", "two"):
        world.server.grant("bob", "acme", "create run", name=name)

    assert all([await world.may("ada", f"agent-{n}") for n in range(100)])
    assert world.server.calls["subjectaccessreviews"] == 1
    assert [await world.may("bob", name) for name in ("one", "two", "three")] == [True, True, False]


async def test_equal_questions_at_one_time_are_asked_once(world):
    """A thousand requests that come together cost one review."""
    world.server.know("t", "ada", "everesthood-web")

    await asyncio.gather(*(world.authorizer.authenticate("t") for _ in range(1000)))

    assert world.server.calls["tokenreviews"] == 1


async def test_an_outage_is_not_remembered(world):
    """As soon as Kubernetes is back, callers are let in."""
    world.server.know("t", "ada", "everesthood-web")
    world.server.down = True
    with pytest.raises(Unavailable):
        await world.authorizer.authenticate("t")
    world.server.down = False

    assert (await world.authorizer.authenticate("t")).username == "ada"


async def test_memory_is_bounded(world, monkeypatch):
    """However many tokens are tried, only so many are kept."""
    monkeypatch.setattr(authorize, "_MOST", 10)
    for number in range(50):
        with pytest.raises(Unauthenticated):
            await world.authorizer.authenticate(f"guess-{number}")

    assert len(world.authorizer._known._answers) == 10
    assert b"guess" not in repr(world.authorizer._known._answers).encode()
