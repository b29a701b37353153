"""Many gateways that claim at the same moment: no limit is ever overstepped, and no flood holds others up."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from tests.support.record import (
    CREDENTIAL,
    INSTANCE,
    TEMPLATE,
    Harness,
    database_url,
    databases,
    finish,
    postgres_harness,
    seat,
    wish,
)

from everesthood.apis.wire import Assignment, WorkRequest
from everesthood.domain.limits import Limits, OrganizationLimits, Rate, Shared

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration

GATEWAYS = 4
RUNS = 60


@pytest.fixture
async def gateways(database_url: str) -> AsyncIterator[list[Harness]]:
    """Yield gateways with pools of their own on one record."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(postgres_harness(database_url, size=4)) for _ in range(GATEWAYS)
        ]


class Watch:
    """Counts what runs at once: a run counts from before its worker knows of it until it was handed in."""

    def __init__(self) -> None:
        self.running: set[str] = set()
        self.started: Counter[str] = Counter()
        self.most = 0

    def began(self, assignments: tuple[Assignment, ...]) -> None:
        self.running.update(one.run for one in assignments)
        self.started.update(one.run for one in assignments)
        self.most = max(self.most, len(self.running))

    def ends(self, runs: list[Assignment]) -> None:
        self.running.difference_update(one.run for one in runs)


async def drain(gateway: Harness, uid: str, watch: Watch, goal: int) -> None:
    """Work as an impatient worker does: claim, execute for a moment, hand in and claim in one call."""
    mine: list[Assignment] = []
    while len(watch.started) < goal or mine:
        watch.ends(mine)
        done = WorkRequest(want=5, finished=tuple(finish(one) for one in mine))
        reply = await gateway.work.work(seat(uid=uid), done)
        assert reply.lost == ()
        mine = list(reply.assignments)
        watch.began(reply.assignments)
        await asyncio.sleep(0.001)


async def race(gateways: list[Harness], uids: list[str]) -> Watch:
    """Accept runs for each instance and drain them by two workers of each at every gateway."""
    watch = Watch()
    for uid in uids:
        await asyncio.gather(*(gateways[0].runs.accept(wish(instance_uid=uid)) for _ in range(RUNS)))
    goal = RUNS * len(uids)
    async with asyncio.timeout(60):
        await asyncio.gather(
            *(drain(gateway, uid, watch, goal) for gateway in gateways for uid in uids for _ in range(2))
        )
    assert (len(watch.started), set(watch.started.values())) == (goal, {1})
    return watch


async def test_concurrency_is_never_oversold(gateways: list[Harness]):
    """Eight workers at four gateways race for one instance's three places: all are used, never a fourth."""
    await gateways[0].registry.publish_instance(replace(INSTANCE, limits=Limits(concurrency=3)))

    watch = await race(gateways, ["uid-a"])

    assert watch.most == 3


async def test_a_key_shared_by_instances_is_never_oversold(gateways: list[Harness]):
    """Workers of three instances that bind one credential race for its four places."""
    for uid in ("uid-a", "uid-b", "uid-c"):
        await gateways[0].registry.publish_instance(replace(INSTANCE, uid=uid, name=uid))
    await gateways[0].registry.publish_credential(replace(CREDENTIAL, limits=Limits(concurrency=4)))

    watch = await race(gateways, ["uid-a", "uid-b", "uid-c"])

    assert watch.most == 4


async def test_a_template_is_never_oversold(gateways: list[Harness]):
    """Workers of three instances of a template race for its three places."""
    await gateways[0].registry.publish_template(replace(TEMPLATE, limits=Limits(concurrency=3)))
    for uid in ("uid-a", "uid-b", "uid-c"):
        await gateways[0].registry.publish_instance(replace(INSTANCE, uid=uid, name=uid))

    watch = await race(gateways, ["uid-a", "uid-b", "uid-c"])

    assert watch.most == 3


async def test_limits_of_all_levels_together_neither_oversell_nor_deadlock(gateways: list[Harness]):
    """Platform, organisation, template, instance and key at once, locked by all gateways in one order."""
    shared = Shared(platform=Limits(concurrency=6), organization=OrganizationLimits(concurrency=5))
    await gateways[0].gateway.publish_limits(shared)
    await gateways[0].registry.publish_template(replace(TEMPLATE, limits=Limits(concurrency=7)))
    for uid in ("uid-a", "uid-b"):
        limited = replace(INSTANCE, uid=uid, name=uid, limits=Limits(concurrency=4))
        await gateways[0].registry.publish_instance(limited)
    await gateways[0].registry.publish_credential(replace(CREDENTIAL, limits=Limits(concurrency=9)))

    watch = await race(gateways, ["uid-a", "uid-b"])

    assert watch.most == 5


async def test_a_rate_is_never_oversold(gateways: list[Harness]):
    """However many ask at once, no more runs start than the burst and one for each interval."""
    rate = Rate(runs=100, period_seconds=1, burst=4)
    await gateways[0].registry.publish_instance(replace(INSTANCE, limits=Limits(rate=rate)))

    began = time.monotonic()
    await race(gateways, ["uid-a"])
    took = time.monotonic() - began

    assert took >= (RUNS - rate.burst) / rate.runs


async def test_a_flood_of_claims_does_not_hold_up_another_organisation(gateways: list[Harness]):
    """Two thousand calls of one organisation wait; the call of another goes with one of the next batches."""
    gateway = gateways[0]
    for uid, namespace in (("uid-a", "acme"), ("uid-g", "globex")):
        await gateway.registry.publish_instance(replace(INSTANCE, uid=uid, namespace=namespace))
    await gateway.runs.accept(wish(instance_uid="uid-g", namespace="globex"))
    over: list[str] = []

    async def call(uid: str, namespace: str) -> int:
        caller = replace(seat(uid=uid), namespace=namespace)
        reply = await gateway.work.work(caller, WorkRequest(want=1))
        over.append(namespace)
        return len(reply.assignments)

    flood = [asyncio.create_task(call("uid-a", "acme")) for _ in range(2000)]
    await asyncio.sleep(0)
    got = await call("uid-g", "globex")
    before = over.index("globex")
    await asyncio.gather(*flood)

    assert got == 1
    assert before <= 600


async def test_a_flood_of_accepts_does_not_hold_up_another_organisation(gateways: list[Harness]):
    """Four thousand runs of one organisation are being accepted; another's is in one of the next batches."""
    gateway = gateways[0]
    for uid, namespace in (("uid-a", "acme"), ("uid-g", "globex")):
        await gateway.registry.publish_instance(replace(INSTANCE, uid=uid, namespace=namespace))
    over: list[str] = []

    async def accept(uid: str, namespace: str) -> None:
        await gateway.runs.accept(wish(instance_uid=uid, namespace=namespace))
        over.append(namespace)

    flood = [asyncio.create_task(accept("uid-a", "acme")) for _ in range(4000)]
    await asyncio.sleep(0)
    await accept("uid-g", "globex")
    before = over.index("globex")
    await asyncio.gather(*flood)

    assert before <= 1500


async def test_under_the_platforms_limit_a_quiet_organisation_is_not_behind_a_flood(gateways: list[Harness]):
    """All places are taken and hundreds wait: whoever has none gets one of the next that come free."""
    await gateways[0].gateway.publish_limits(Shared(platform=Limits(concurrency=4)))
    for uid, namespace in (("uid-a", "acme"), ("uid-g", "globex")):
        await gateways[0].registry.publish_instance(replace(INSTANCE, uid=uid, namespace=namespace))
    await asyncio.gather(*(gateways[0].runs.accept(wish()) for _ in range(400)))
    watch, ended = Watch(), asyncio.Event()
    aside, *others = gateways

    async def flood(gateway: Harness) -> None:
        mine: list[Assignment] = []
        while not ended.is_set():
            done = tuple(finish(one) for one in mine)
            reply = await gateway.work.work(seat(), WorkRequest(want=5, finished=done))
            mine = list(reply.assignments)
            watch.began(reply.assignments)
            await asyncio.sleep(0.005)

    async def quiet() -> tuple[Assignment, ...]:
        await gateways[0].runs.accept(wish(instance_uid="uid-g", namespace="globex"))
        while not (reply := await aside.work.work(seat(uid="uid-g"), WorkRequest(want=1))).assignments:
            await asyncio.sleep(reply.next_due_in or 0)
        return reply.assignments

    workers = [asyncio.create_task(flood(gateway)) for gateway in others]
    while len(watch.started) < 8:
        await asyncio.sleep(0.01)
    before = len(watch.started)
    async with asyncio.timeout(10):
        (got,) = await quiet()
    after = len(watch.started)
    ended.set()
    await asyncio.gather(*workers)

    assert got.attempt == 1
    assert after < 400
    assert after - before < 300
