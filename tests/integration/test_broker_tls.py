"""TLS to the broker: it is used where it is asked for, and only a broker that proves who it is is spoken to."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.support.broker import Broker, broker_on, listening
from tests.support.certificates import make_certificate
from tests.support.tls_proxy import tls_in_front_of
from tests.support.valkey import running_valkey

from everesthood.adapters.redis import RedisAddress, RedisBell, connect

pytestmark = [
    pytest.mark.integration,
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


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path / "own", "redis", alternative="IP:127.0.0.1")


@pytest.fixture
def port(server, certificate: Path) -> Iterator[int]:
    with tls_in_front_of(server.port, certificate) as found:
        yield found


def bell_over_tls(broker: Broker, port: int, ca: Path) -> RedisBell:
    address = RedisAddress(
        host="127.0.0.1",
        port=port,
        user="bell",
        password_file=str(broker.bell_password_file),
        tls=True,
        ca_file=str(ca / "tls.crt"),
    )
    return RedisBell(connect(address, process="web"))


async def test_a_bell_is_rung_over_tls(broker, port, certificate):
    """Web and gateway ring a broker that only speaks TLS."""
    bell = bell_over_tls(broker, port, certificate)
    await bell.ring("uid-a", "r1")
    await bell.aclose()

    assert broker.waiting() == 1


async def test_a_broker_with_another_certificate_is_not_spoken_to(broker, port, tmp_path):
    """Nobody in between gets a password or a bell."""
    bell = bell_over_tls(broker, port, make_certificate(tmp_path / "other", "other"))
    await bell.ring("uid-a", "r1")
    await bell.aclose()

    assert broker.waiting() == 0


async def test_a_worker_hears_its_bell_over_tls(broker, port, certificate):
    """A worker gets the authority with its lease and needs no file for it."""
    ca = (certificate / "tls.crt").read_text()
    lease = msgspec.structs.replace(broker.lease(), port=port, tls=True, ca=ca)
    with listening(lease) as ear:
        await broker.ring()
        await asyncio.to_thread(ear.until, lambda it: it.bells == 1)


async def test_a_worker_does_not_speak_to_a_broker_that_cannot_prove_itself(broker, port, tmp_path, caplog):
    """A worker with another authority stays deaf, says why, and gives its password to nobody."""
    other = make_certificate(tmp_path / "other", "other")
    lease = msgspec.structs.replace(broker.lease(), port=port, tls=True, ca=(other / "tls.crt").read_text())
    with listening(lease) as ear:
        await broker.ring()
        for _ in range(200):
            if "CERTIFICATE_VERIFY_FAILED" in caplog.text:
                break
            await asyncio.sleep(0.05)

    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text
    assert not ear.lines
    assert broker.waiting() == 1
