"""Workers that are more than needed leave, as the gateway arranges it."""

import pytest
from tests.support.record import INSTANCE, Harness, memory_harness, seat

from everesthood.adapters.memory.bell import MemoryBell
from everesthood.apis.wire import Assignment, WorkReply, WorkRequest
from everesthood.domain.errors import Unavailable
from everesthood.usecases.leave import Leaving

GIVEN = WorkReply(
    assignments=(
        Assignment(
            run="r", fence=1, attempt=1, input=b"1", request_id="q", seconds_left=60.0, lease_seconds=30
        ),
    )
)  # type: ignore[arg-type]


@pytest.fixture
async def record() -> Harness:
    record = memory_harness()
    await record.registry.publish_instance(INSTANCE)
    return record


async def told(leaving: Leaving, reply: WorkReply = WorkReply(), **said) -> str:  # noqa: B008 - frozen
    answer = await leaving.answer(seat(), WorkRequest(want=3, **said), reply)
    assert answer.assignments == reply.assignments
    return answer.leave


async def test_nobody_is_asked_while_nobody_is_to_leave(record: Harness):
    """At rest a call costs nothing more, and a worker that was asked hears that it may stay."""
    leaving = Leaving(record.gateway, MemoryBell())
    await leaving.refresh()

    assert await told(leaving) == "no"
    assert await told(leaving, holds=0) == "no"


async def test_a_worker_is_asked_then_taken_at_its_word(record: Harness):
    """First it is asked; one that holds nothing, and was given nothing in this very call, is to leave."""
    await record.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    leaving = Leaving(record.gateway, MemoryBell())
    await leaving.refresh()

    assert await told(leaving) == "offer"
    assert await told(leaving, holds=1) == "offer"
    assert await told(leaving, GIVEN, holds=0) == "offer"
    assert await told(leaving, holds=0) == "yes"


async def test_one_that_leaves_is_noted_though_nobody_is_asked_any_more(record: Harness):
    """The wish is fulfilled with it; what it says is heard all the same."""
    await record.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    leaving = Leaving(record.gateway, MemoryBell())
    await leaving.refresh()
    await told(leaving, holds=0)
    await leaving.refresh()

    assert await told(leaving, holds=0, leaves=True) == "yes"
    assert (await record.registry.demand({"uid-a": 1}))["uid-a"]["r1"].left == ("pod-1",)


async def test_a_container_started_again_in_a_leaving_pod_goes_on_leaving(record: Harness):
    """It knows nothing of it and claims; asked anew it says what it holds, and its pod is not deleted under a run."""
    await record.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    leaving = Leaving(record.gateway, MemoryBell())
    await leaving.refresh()
    await told(leaving, holds=0)
    await told(leaving, holds=0, leaves=True)
    await leaving.refresh()

    assert await told(leaving) == "offer"
    assert await told(leaving, holds=1) == "yes"
    assert (await record.registry.demand({"uid-a": 1}))["uid-a"]["r1"].left == ()


async def test_a_record_that_is_away_costs_no_assignment(record: Harness, monkeypatch):
    """What the worker was given in the call reaches it, and one that leaves goes on leaving."""
    await record.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    leaving = Leaving(record.gateway, MemoryBell())
    await leaving.refresh()

    async def away(*_: object, **__: object) -> bool:
        raise Unavailable("away")

    monkeypatch.setattr(record.gateway, "offer_to_leave", away)

    assert await told(leaving, GIVEN, holds=0) == "offer"
    assert await told(leaving, holds=0, leaves=True) == "yes"


async def test_idle_workers_are_woken_one_by_one_to_be_asked(record: Harness):
    """Each look rings for one worker while one is to leave; it rings for nobody before and after."""
    bell = MemoryBell()
    leaving = Leaving(record.gateway, bell)
    await leaving.refresh()
    before = dict(bell.waiting)
    await record.registry.ask_to_leave("uid-a", "r1", 2, drain=False)
    heard = []
    for pod in ("pod-1", "pod-2", "pod-3"):
        await leaving.refresh()
        heard.append(bell.hear("uid-a", "r1"))
        await bell.settle("uid-a", "r1")
        for said in ({}, {"holds": 0}):
            await leaving.answer(seat(pod=pod), WorkRequest(want=3, **said), WorkReply())

    assert before == {}
    assert heard == [True, True, False]
