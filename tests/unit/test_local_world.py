"""What stands in for Kubernetes on one machine lets nobody in who has no token of it."""

import pytest

from everesthood.adapters.local import LocalWorld, Person, Seat, World, write_world
from everesthood.apis.names import GATEWAY_AUDIENCE, WEB_AUDIENCE
from everesthood.bootstrap.surroundings import surroundings
from everesthood.domain.errors import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from everesthood.settings import Settings
from everesthood.usecases.ports.identity import Access, Identity

ACCESS = Access(verb="create", namespace="default", resource="agentinstances", subresource="run")
SEAT = Seat(token="of the worker", namespace="default", account="triage", instance_uid="uid", revision="r1")


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "world.json"
    people = (Person(token="of a person", name="you"),)
    write_world(path, World(people=people, seats=(SEAT,), secrets={"default/model": {"key": "sesame"}}))
    return path


async def test_a_person_with_the_token_may_do_everything(path):
    """Whoever has the token that `dev` printed may call the API."""
    world = LocalWorld(path)
    person = await world.authenticate("of a person", (WEB_AUDIENCE,))

    assert person.username == "you"
    assert await world.allows(person, ACCESS)


@pytest.mark.parametrize(
    ("token", "audience"),
    [("guessed", WEB_AUDIENCE), ("of the worker", WEB_AUDIENCE), ("of a person", GATEWAY_AUDIENCE)],
)
async def test_a_token_is_good_for_nothing_else(path, token, audience):
    """A guessed token is refused, and so is a worker's at the API and a person's at the gateway."""
    with pytest.raises(Unauthenticated):
        await LocalWorld(path).authenticate(token, (audience,))


async def test_a_stranger_may_nothing(path):
    """An identity that is not of this machine is allowed nothing."""
    assert not await LocalWorld(path).allows(Identity(username="mallory"), ACCESS)


async def test_a_worker_sits_at_its_own_instance(path):
    """A worker's token leads to its instance and revision, and to no other."""
    world = LocalWorld(path)
    worker = await world.authenticate("of the worker", (GATEWAY_AUDIENCE,))
    uid = worker.extra["authentication.kubernetes.io/pod-uid"][0]

    assert worker.username == "system:serviceaccount:default:triage"
    assert await world.seat("default", "triage", uid) == ("uid", "r1")
    with pytest.raises(Forbidden):
        await world.seat("other", "triage", uid)


async def test_secrets_come_from_the_manifests(path):
    """A value is found by namespace, name and key, and what is missing is named."""
    world = LocalWorld(path)

    assert await world.value("default", "model", "key") == "sesame"
    with pytest.raises(NotFound, match="in none of the manifests"):
        await world.value("other", "model", "key")
    with pytest.raises(NotFound, match="no key 'other'"):
        await world.value("default", "model", "other")


async def test_a_changed_file_counts_at_once_and_a_missing_one_is_said(path):
    """A worker that was dismissed is out with the next call; without the file nobody is in."""
    world = LocalWorld(path)
    await world.authenticate("of the worker", (GATEWAY_AUDIENCE,))

    write_world(path, World())
    with pytest.raises(Unauthenticated):
        await world.authenticate("of the worker", (GATEWAY_AUDIENCE,))
    path.unlink()
    with pytest.raises(Unavailable):
        await world.authenticate("of the worker", (GATEWAY_AUDIENCE,))


def test_only_its_owner_reads_the_file(path):
    """The file holds tokens and Secrets, so its mode keeps others out."""
    assert path.stat().st_mode & 0o777 == 0o600


async def test_an_installation_cannot_be_opened_by_the_setting(path):
    """A process that serves more than this machine refuses to take identities from a file."""
    with pytest.raises(Invalid, match="EVERESTHOOD_HTTP_HOST=127.0.0.1"):
        async with surroundings(Settings(local_world=str(path))):
            pass
