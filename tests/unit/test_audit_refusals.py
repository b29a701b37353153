"""Refusals are in the audit log, and no flood of them fills it."""

import asyncio
from collections.abc import Callable

from tests.support.reviews import FakeApiServer

from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.domain.access import REQUIRED
from everesthood.domain.errors import Forbidden, Unavailable
from everesthood.usecases import audit_refusals
from everesthood.usecases.audit_refusals import MORE, MOST, MOST_OF_ONE, AuditRefusals
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.identity import Identity
from everesthood.usecases.ports.record import AuditEntry


class World:
    def __init__(self) -> None:
        self.time = 0.0
        self.down = False
        self.lines: list[AuditEntry] = []
        self.refusals = AuditRefusals(self._audit, lambda: self.time)

    async def _audit(self, entry: AuditEntry) -> None:
        if self.down:
            raise Unavailable("PostgreSQL cannot be reached.")
        self.lines.append(entry)

    def refuse(self, target: str = "get agentinstances/one/runs", actor: str = "eve") -> None:
        self.refusals(actor=actor, namespace="acme", target=target, request_id="req-1")

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(5):
            while not happened():
                await asyncio.sleep(0)


async def test_a_refusal_says_who_wanted_what() -> None:
    """Who calls, the verb and the object, and the request that the answer named."""
    world, server = World(), FakeApiServer()
    authorizer = Authorizer(KubernetesIdentities(server), lambda: world.time, world.refusals)
    for name in ("one", ""):
        try:
            await authorizer.require(
                Identity(username="eve"), REQUIRED["createRun"], "acme", name, request_id="req-7"
            )
        except Forbidden:
            pass
        else:
            raise AssertionError(name)
    await world.refusals.close()

    assert [
        (line.namespace, line.actor, line.action, line.target, line.request_id) for line in world.lines
    ] == [
        ("acme", "eve", "access.deny", "create agentinstances/one/run", "req-7"),
        ("acme", "eve", "access.deny", "create agentinstances/run", "req-7"),
    ]


async def test_the_same_refusal_is_one_line_a_minute() -> None:
    """Another caller, another object and another minute are lines of their own."""
    world = World()
    for world.time in (0.0, 30.0, 59.0):
        world.refuse()
    world.refuse("get agentinstances/two/runs")
    world.refuse(actor="mallory")
    world.time = 60.0
    world.refuse()
    await world.refusals.close()

    assert [(line.actor, line.target.split("/")[1]) for line in world.lines] == [
        ("eve", "one"),
        ("eve", "two"),
        ("mallory", "one"),
        ("eve", "one"),
    ]


async def test_a_flood_is_cut_off() -> None:
    """Neither one caller who tries every name, nor many callers, write more than so many lines a minute."""
    world = World()
    for number in range(3 * MOST_OF_ONE):
        world.refuse(f"get agentinstances/{number}/runs")
    await world.until(lambda: len(world.lines) == MOST_OF_ONE)
    for number in range(2 * MOST):
        world.refuse(actor=f"eve-{number}")
    await world.refusals.close()

    assert world.lines[MOST_OF_ONE - 1].target == MORE
    assert len(world.lines) == MOST


async def test_a_record_that_is_away_gets_them_later(monkeypatch) -> None:
    """Nobody who is refused waits for it."""
    monkeypatch.setattr(audit_refusals, "_AGAIN_SECONDS", 0.0)
    world = World()
    world.down = True
    world.refuse()
    for _ in range(10):
        await asyncio.sleep(0)
    world.down = False
    await world.until(lambda: len(world.lines) == 1)

    assert world.lines[0].actor == "eve"
