"""A run that is cancelled while it runs: how soon its worker hears of it, and what its code may still do."""

import asyncio
from typing import Any

import pytest
from tests.support import code_agents
from tests.support.worker import FakeGateway, Figures, Serving, agent, executing, step

from everesthood.adapters.steps import authors_loop
from everesthood.apis.wire import Assignment, Finish
from everesthood.domain.errors import Refused


@pytest.fixture(autouse=True)
def _fresh():
    code_agents.CALLS.clear()
    code_agents.HOLD.clear()
    yield
    code_agents.HOLD.set()


def cancel(gateway: FakeGateway, run: str = "run-1") -> None:
    gateway.rows[run].cancel = True
    gateway.cancelled.set()


def outcome(gateway: FakeGateway, run: str = "run-1") -> str | None:
    finish = gateway.rows[run].finish
    return None if finish is None else finish.outcome


async def forever(given: Assignment, _: Any) -> Finish:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_worker_hears_of_a_cancellation_at_once() -> None:
    """With leases of 30 s the next heartbeat is far away; the run ends long before."""
    gateway = FakeGateway(lease_seconds=30)
    gateway.add(2)
    async with Serving(gateway, forever):
        await gateway.until(lambda: gateway.watches == 1)
        cancel(gateway)
        await gateway.until(lambda: outcome(gateway) is not None, seconds=2)

    assert (outcome(gateway), len(gateway.heartbeats)) == ("cancelled", 1)


async def test_a_worker_that_holds_nothing_listens_for_nothing() -> None:
    """An idle worker has no call open."""
    gateway = FakeGateway()
    async with Serving(gateway, forever):
        await gateway.until(lambda: len(gateway.requests) > 3)

    assert gateway.watches == 0


async def test_without_hints_the_next_heartbeat_tells() -> None:
    """A gateway that cannot be listened to costs time and nothing else."""

    class Deaf(FakeGateway):
        async def watch(self) -> bool:
            self.watches += 1
            raise Refused("There is no POST /v1/watch.")

    gateway = Deaf(lease_seconds=1)
    gateway.add(1)
    async with Serving(gateway, forever):
        await gateway.until(lambda: gateway.watches == 1)
        gateway.rows["run-1"].cancel = True
        await gateway.until_over(seconds=5)

    assert (outcome(gateway), gateway.watches) == ("cancelled", 1)


async def test_what_code_does_about_a_cancellation_is_not_broken_off_by_the_next_heartbeat() -> None:
    """It is told once; as long as the record leaves it time, it has it."""
    gateway, told, tidied = FakeGateway(), [], asyncio.Event()
    gateway.add(1)

    async def tidies(given: Assignment, _: Any) -> Finish:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.append("cancelled")
            await tidied.wait()
            told.append("tidied")
            raise
        raise AssertionError

    async with Serving(gateway, tidies):
        await gateway.until(lambda: gateway.watches == 1)
        cancel(gateway)
        await gateway.until(lambda: len(gateway.heartbeats) == 1 and told == ["cancelled"])
        gateway.cancelled.set()
        await gateway.until(lambda: len(gateway.heartbeats) == 2)
        await asyncio.sleep(0)
        tidied.set()
        await gateway.until_over(seconds=5)

    assert (told, outcome(gateway)) == (["cancelled", "tidied"], "cancelled")


async def test_after_its_grace_a_run_is_broken_off() -> None:
    """The record has ended the run; its worker lets go of it and hands nothing in."""
    gateway, figures, told = FakeGateway(), Figures(), []
    gateway.add(1)

    async def stubborn(given: Assignment, _: Any) -> Finish:
        for _ in range(2):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                told.append(error.args)
        raise asyncio.CancelledError

    async with Serving(gateway, stubborn, figures=figures):
        await gateway.until(lambda: gateway.watches == 1)
        cancel(gateway)
        await gateway.until(lambda: len(told) == 1)
        gateway.rows["run-1"].held = False
        gateway.cancelled.set()
        await gateway.until(lambda: figures.outcomes["lost"] == 1)

    assert told == [("cancelled",), ("lost",)]
    assert outcome(gateway) is None


@pytest.mark.parametrize("beside", [False, True])
async def test_async_code_has_the_grace_to_tidy_up(monkeypatch: pytest.MonkeyPatch, beside: bool) -> None:
    """Its `finally` may take longer than at a timeout, and use its Context, alone or beside other steps."""
    monkeypatch.setattr(authors_loop, "TIDY_SECONDS", 0.01)
    work = step("work", code={"entrypoint": "tests.support.code_agents:tidies_long"})
    also = step("also", code={"entrypoint": "tests.support.code_agents:tidies"})
    gateway = FakeGateway()
    gateway.add(1)
    async with Serving(gateway, executing(agent(work, *([also] if beside else [])))):
        await gateway.until(lambda: code_agents.CALLS.count("waits") == 1 + beside)
        cancel(gateway)
        await gateway.until(lambda: "tidies" in code_agents.CALLS)
        early = outcome(gateway)
        await asyncio.sleep(0.1)  # longer than the time after a timeout
        assert outcome(gateway) is None
        code_agents.HOLD.set()
        await gateway.until_over(seconds=5)

    assert (early, outcome(gateway)) == (None, "cancelled")
    assert code_agents.CALLS[-1] == "undone"
    assert "work/undo" in gateway.rows["run-1"].steps
