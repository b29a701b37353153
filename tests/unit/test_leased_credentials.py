"""Leased credentials: asked for when needed, kept as long as the lease, never shown."""

import asyncio
import base64

import pytest
from tests.support.worker import FakeGateway

from everesthood.adapters.gateway import LeasedCredentials
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease
from everesthood.domain.errors import EveresthoodError, Forbidden, StepFailed, Unavailable


class Leasing(FakeGateway):
    """Leases numbered values, or fails."""

    def __init__(self, failure: EveresthoodError | None = None, value: str = "value") -> None:
        super().__init__()
        self.asked = 0
        self.failure = failure
        self.value = value

    async def lease(self, slot: str) -> CredentialLease:
        self.asked += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        return CredentialLease(type="Bearer", value=f"{self.value}-{slot}-{self.asked}", ttl_seconds=60)


async def test_a_value_is_leased_once_for_all_who_ask_at_once() -> None:
    """Many steps at the same time make one call; another slot makes its own."""
    gateway = Leasing()
    credentials = LeasedCredentials(gateway)

    leases = await asyncio.gather(*(credentials.lease("a") for _ in range(20)), credentials.lease("b"))

    assert gateway.asked == 2
    assert len({lease.value for lease in leases}) == 2


async def test_a_value_is_leased_anew_when_its_lease_is_over() -> None:
    """A rotated value reaches the agent after its ttl at the latest; the old one stays hidden."""
    now = 0.0
    credentials = LeasedCredentials(Leasing(), now=lambda: now)
    first = await credentials.lease("a")
    now = 59.0
    same = await credentials.lease("a")
    now = 61.0
    second = await credentials.lease("a")

    assert first is same
    assert first.value != second.value
    assert credentials.redact(f"{first.value} {second.value}") == "[credential] [credential]"


@pytest.mark.parametrize(
    ("failure", "reason", "transient"),
    [
        (Unavailable("down"), Reason.RECORD_UNAVAILABLE, True),
        (Forbidden("no", Reason.CREDENTIAL_NOT_ALLOWED), Reason.CREDENTIAL_NOT_ALLOWED, False),
    ],
)
async def test_a_refused_lease_fails_the_step(
    failure: EveresthoodError, reason: str, transient: bool
) -> None:
    """The step's message names the slot; a gateway that is down may be asked again."""
    with pytest.raises(StepFailed) as failed:
        await LeasedCredentials(Leasing(failure), patience_seconds=0).lease("key")

    assert failed.value.message.startswith("credential slot key cannot be leased: ")
    assert (failed.value.reason, failed.value.transient) == (reason, transient)


async def test_an_outage_of_the_gateway_is_waited_out() -> None:
    """A step whose credential cannot be leased for a moment does not fail of it."""
    gateway = Leasing(Unavailable("PostgreSQL cannot be reached."))
    leasing = asyncio.create_task(LeasedCredentials(gateway).lease("key"))
    while gateway.asked < 2:
        await asyncio.sleep(0.01)
    gateway.failure = None

    assert (await leasing).value == f"value-key-{gateway.asked}"


@pytest.mark.parametrize("value", ['quo"ted', "täglich", "user:password", "back\\slash"])
async def test_every_spelling_of_a_value_is_hidden(value: str) -> None:
    """As it is, inside JSON, in Basic authentication, and the password alone."""
    credentials = LeasedCredentials(Leasing(value=value))
    leased = (await credentials.lease("a")).value
    encoded = base64.b64encode(leased.encode()).decode()
    spellings = [leased, repr(leased)[1:-1].replace("\\\\", "\\"), encoded, leased.rpartition(":")[2]]

    assert all(credentials.redact(f"<{one}>") == "<[credential]>" for one in spellings)


async def test_short_values_are_not_looked_for() -> None:
    """A value of five characters would blot out half a text."""

    class Short(FakeGateway):
        async def lease(self, slot: str) -> CredentialLease:
            return CredentialLease(type="Bearer", value="the")

    credentials = LeasedCredentials(Short())
    await credentials.lease("a")

    assert credentials.redact("the end") == "the end"
