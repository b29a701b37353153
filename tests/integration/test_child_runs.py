"""Agents that have other agents run: one child whatever dies, in one's own namespace, declared, bounded."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.support.record import (
    INSTANCE,
    Harness,
    database_url,
    databases,
    finish,
    memory_harness,
    new_id,
    postgres_harness,
    seat,
    step,
)

from everesthood.adapters.languages import Languages
from everesthood.adapters.memory.bell import MemoryBell
from everesthood.apis import names
from everesthood.apis.wire import ChildReply, ChildRequest
from everesthood.domain.errors import Forbidden, Invalid, NotFound, Refused
from everesthood.domain.runs import RunId, RunState
from everesthood.usecases.call_instance import MOST_DEPTH, CallInstance
from everesthood.usecases.ports.record import RunFilter
from everesthood.usecases.ports.registry import PublishedRevision
from everesthood.usecases.request_run import RequestRun

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration

HELPER = replace(INSTANCE, uid="uid-h", name="helper", template="helping", current_revision="h1")
FOREIGN = replace(HELPER, uid="uid-x", namespace="other")
TOOLS = [
    {"name": "help", "description": "Helps.", "instance": "helper"},
    {"name": "again", "description": "Is this agent itself.", "instance": "greeter"},
    {"name": "away", "description": "Is not there.", "instance": "gone"},
]
CALLER = {
    "displayName": "Caller",
    "steps": [
        {"name": "ask", "agent": {"endpoint": "https://m.example/v1", "model": "m", "instructions": "", "prompt": "", "tools": TOOLS}}
    ],
}  # fmt: skip
HELPING = {
    "displayName": "Helper",
    "inputSchema": {"type": "object", "required": ["topic"]},
    "queue": {"maxRunSeconds": 600},
    "steps": [{"name": "a", "transform": {"value": "1"}}],
}


class World:
    """A record with the two agents, and the use case over it."""

    def __init__(self, record: Harness) -> None:
        self.record = record
        self.bell = MemoryBell()
        self.request_run = RequestRun(
            runs=record.runs,
            bell=self.bell,
            schemas=Languages(),
            now=lambda: datetime.now(UTC),
            random=os.urandom,
        )
        self.call = CallInstance(
            store=record.gateway, runs=record.runs, request_run=self.request_run, wait_seconds=0.05
        )

    async def publish(self) -> None:
        for digest, template, spec in (("r1", "greeting", CALLER), ("h1", "helping", HELPING)):
            await self.record.registry.publish_revision(
                PublishedRevision(
                    namespace="acme", digest=digest, template=template, spec=msgspec.json.encode(spec)
                )
            )
        for instance in (INSTANCE, HELPER, FOREIGN):
            await self.record.registry.publish_instance(instance)

    async def parent(self, **changes: Any) -> Any:
        """Return the assignment of a run that is under way."""
        await self.record.accept(**changes)
        (held,) = await self.record.claim(1)
        return held

    async def ask(
        self, held: Any, *, instance: str = "helper", where: str = "ask/turn1/call1", **changes: Any
    ):
        request = ChildRequest(
            run=held.run,
            fence=held.fence,
            step=where,
            instance=instance,
            input=msgspec.Raw(msgspec.json.encode(changes.pop("value", {"topic": "tea"}))),
            seconds=changes.pop("seconds", 300),
        )
        return await self.call(changes.pop("who", seat()), request)

    async def do_child(self, output: object = "done", outcome: str = "succeeded") -> None:
        """Act for the helper's worker."""
        (held,) = await self.record.claim(1, uid="uid-h", revision="h1")
        raw = msgspec.Raw(msgspec.json.encode(output))
        await self.record.hand_in(finish(held, outcome, output=raw), uid="uid-h", revision="h1")

    async def children(self, held: Any) -> list[str]:
        labels = {names.RUN_LABEL_PARENT: held.run}
        return [run.id for run in await self.record.listed(RunFilter(namespace="acme", labels=labels))]


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Yield a world over each kind of record."""
    if request.param == "memory":
        made = World(memory_harness())
        await made.publish()
        yield made
        return
    held = request.getfixturevalue("databases")
    url = await held.borrow()
    async with postgres_harness(url) as record:
        made = World(record)
        await made.publish()
        yield made
    await held.give_back(url)


async def test_a_child_is_a_run_of_its_own_that_knows_its_parent(world: World) -> None:
    """It is accepted like any other run, audited under its parent, rung for, and found by its parent's id."""
    held = await world.parent()
    reply = await world.ask(held)

    child = await world.record.run(reply.run)
    assert (reply.is_over, reply.state) == (False, "queued")
    assert (child.instance, child.input, child.requested_by) == (
        "helper",
        b'{"topic":"tea"}',
        f"run/{held.run}",
    )
    assert await world.children(held) == [child.id]
    assert world.bell.waiting["uid-h", "h1"] == 1
    assert (f"run/{held.run}", "run.accept", f"run/{child.id}") in await world.record.audited()


async def test_the_end_of_a_child_is_told_with_its_output(world: World) -> None:
    """Who asks again once the child is over learns what it came to."""
    held = await world.parent()
    first = await world.ask(held)
    await world.do_child({"answer": 42})
    again = await world.ask(held)

    assert (again.run, again.state, again.is_over) == (first.run, "succeeded", True)
    assert msgspec.json.decode(again.output) == {"answer": 42}


async def test_who_waits_is_told_as_soon_as_the_child_is_over(world: World) -> None:
    """A question waits for the end instead of being asked over and over."""
    patient = replace_wait(world, 10.0)
    held = await world.parent()
    asking = asyncio.create_task(World.ask(patient, held))
    while not await world.children(held):
        await asyncio.sleep(0.01)
    await world.do_child()

    reply: ChildReply = await asyncio.wait_for(asking, 5)
    assert reply.is_over


def replace_wait(world: World, seconds: float) -> World:
    made = World(world.record)
    made.call = replace(made.call, wait_seconds=seconds)
    return made


async def test_a_parent_that_goes_on_elsewhere_has_the_same_child(world: World) -> None:
    """The next attempt of the parent asks by the same name and gets the same run, also with less time left."""
    held = await world.parent()
    first = await world.ask(held, seconds=300)
    await world.record.age(31)
    await world.record.clock.rescue()
    (again,) = await world.record.claim(1)
    second = await world.ask(again, seconds=200)

    assert (again.run, again.fence) == (held.run, 2)
    assert second.run == first.run
    assert len(await world.children(held)) == 1


async def test_questions_at_once_start_one_child(world: World) -> None:
    """Two workers that both believe they hold the parent start no second run."""
    held = await world.parent()
    replies = await asyncio.gather(*(world.ask(held) for _ in range(8)))

    assert len({reply.run for reply in replies}) == 1
    assert len(await world.children(held)) == 1


async def test_another_call_is_another_child(world: World) -> None:
    """Each call that a model makes is a run of its own."""
    held = await world.parent()
    replies = [await world.ask(held, where=f"ask/turn1/call{n}") for n in (1, 2)]

    assert replies[0].run != replies[1].run


async def test_only_the_holder_of_the_parent_may_ask(world: World) -> None:
    """Neither a stale attempt, nor another instance, nor a run that is over gets anything run."""
    held = await world.parent()
    for changes in ({"who": replace(seat(), instance_uid="uid-h", revision="r1")}, {}):
        stale = msgspec.structs.replace(held, fence=held.fence + (0 if changes else 1))
        with pytest.raises(Refused, match="not held by this worker"):
            await world.ask(stale, **changes)
    await world.record.hand_in(finish(held))
    with pytest.raises(Refused, match="not held by this worker"):
        await world.ask(held)

    assert await world.children(held) == []


async def test_an_instance_that_no_tool_names_is_not_run(world: World) -> None:
    """What a worker says does not count; the template that was admitted does."""
    held = await world.parent()
    with pytest.raises(Forbidden, match="has no tool that runs instance 'payroll'"):
        await world.ask(held, instance="payroll")


async def test_an_instance_of_another_namespace_is_not_there(world: World) -> None:
    """A name means the instance of one's own namespace; there is no way to name another's."""
    held = await world.parent()
    with pytest.raises(NotFound, match="no AgentInstance 'gone' in namespace 'acme'"):
        await world.ask(held, instance="gone")
    await world.ask(held)

    assert await world.record.listed(RunFilter(namespace="other")) == []


async def test_an_input_that_the_other_agent_does_not_take_is_refused(world: World) -> None:
    """The child's own input schema decides."""
    held = await world.parent()
    with pytest.raises(Invalid, match="topic"):
        await world.ask(held, value={"wrong": 1})


async def test_agents_that_call_each_other_in_a_circle_come_to_an_end(world: World) -> None:
    """A run so many runs below the first starts none."""
    held = await world.parent()
    for depth in range(1, MOST_DEPTH + 1):
        reply = await world.ask(held, instance="greeter")
        child = await world.record.run(reply.run)
        assert child.labels[names.RUN_LABEL_DEPTH] == str(depth)
        (held,) = await world.record.claim(1)

    with pytest.raises(Refused, match="5 deep already"):
        await world.ask(held, instance="greeter")


async def test_a_child_has_no_more_time_than_its_parent(world: World) -> None:
    """It is out of time with its parent, and does not start after it; its own template's limit stays."""
    held = await world.parent()
    reply = await world.ask(held, seconds=100)
    child = await world.record.run(reply.run)
    (started,) = await world.record.claim(1, uid="uid-h", revision="h1")

    assert child.expires_at is not None
    assert 95 < (child.expires_at - child.created_at).total_seconds() < 105
    assert 90 < started.seconds_left <= 100

    longer = await world.ask(held, where="ask/turn1/call2", seconds=5000)
    (started,) = await world.record.claim(1, uid="uid-h", revision="h1")
    assert started.run == longer.run
    assert 500 < started.seconds_left <= 600


async def test_a_failed_child_is_told_with_its_reason(world: World) -> None:
    """The parent's model can be told why."""
    held = await world.parent()
    await world.ask(held)
    (child,) = await world.record.claim(1, uid="uid-h", revision="h1")
    end = finish(child, "failed", message="steps.a: no", steps=(step("a", "failed"),))
    await world.record.hand_in(end, uid="uid-h", revision="h1")
    reply = await world.ask(held)

    assert (reply.state, reply.is_over, reply.message) == ("dead", True, "steps.a: no")
    assert (await world.record.run(reply.run)).state is RunState.DEAD


@pytest.mark.parametrize(
    "changes", [{"seconds": 0}, {"seconds": 10**6}, {"where": ""}, {"where": "ä"}, {"where": "x" * 300}]
)
async def test_a_question_that_breaks_a_rule_is_refused(world: World, changes: dict[str, Any]) -> None:
    """Nothing a worker says reaches the record unjudged."""
    held = await world.parent()
    with pytest.raises(Invalid):
        await world.ask(held, **changes)
    with pytest.raises(Invalid):
        await world.ask(msgspec.structs.replace(held, run="no-id"))
    assert await world.record.runs.get("acme", RunId(new_id())) is None


async def test_a_cancelled_parent_starts_no_child(world: World) -> None:
    """Whether it is cancelled before its worker asks, or at the very moment of the child's accept."""
    held = await world.parent()

    async def cancelled_meanwhile(wish: Any) -> Any:
        answer = await world.request_run(wish)
        # As a cancellation that is committed after the accept but looked for children before it.
        unseen = world.record.runs
        await cancel_alone(world, held.run)
        assert (await unseen.get("acme", answer.run.id)).state is RunState.QUEUED  # type: ignore[union-attr]
        return answer

    world.call = replace(world.call, request_run=cancelled_meanwhile)
    with pytest.raises(Refused, match="is cancelled"):
        await world.ask(held)
    with pytest.raises(Refused, match="is cancelled"):
        await world.ask(held, where="ask/turn1/call2")

    (child,) = await world.children(held)
    assert (await world.record.run(child)).state is RunState.CANCELLED


async def cancel_alone(world: World, run: str) -> None:
    """Mark a run as cancelled without a look at its children."""
    if world.record.database is None:
        world.record.runs._record.rows[RunId(run)].cancel_requested = True  # type: ignore[attr-defined]
    else:
        async with world.record.database.acquire() as connection:
            await connection.execute("update run set cancel_requested = true where id = $1::uuid", run)


async def test_a_gateway_that_ends_lets_go_of_who_waits_for_a_child(world: World) -> None:
    """A question that waits is answered at once, and so is one that comes before the door is closed."""
    patient = replace_wait(world, 60.0)
    held = await world.parent()
    asking = asyncio.create_task(World.ask(patient, held))
    done, _ = await asyncio.wait({asking}, timeout=0.3)

    patient.call.release()

    async with asyncio.timeout(5):
        replies = [await asking, await World.ask(patient, held)]
    assert done == set()
    assert {(reply.state, reply.is_over) for reply in replies} == {("queued", False)}
    assert await world.children(held) == [replies[0].run]
