"""What the controller learns of work, whom it is told of, and how workers leave."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest
from tests.support.record import INSTANCE, Harness, finish, seat, step, waits

from everesthood.domain.approvals import Decision
from everesthood.domain.doubts import Resolution
from everesthood.domain.runs import Dedupe, RunId
from everesthood.domain.scaling import IDLE_FIRST_SECONDS, Demand
from everesthood.usecases.ports.control import Actor

pytestmark = pytest.mark.contract
QUIET = replace(INSTANCE, generation=2, quiet=("r1",))
_NOBODY_SECONDS, _NO_MORE_SECONDS = 1.0, 0.3


async def demand(record: Harness, most: int = 100, uid: str = "uid-a") -> dict[str, Demand]:
    found = dict((await record.registry.demand({uid: most})).get(uid, {}))
    return {
        revision: replace(one, oldest_seconds=round(one.oldest_seconds)) for revision, one in found.items()
    }


async def offers(record: Harness, pods: Sequence[str], *, holds: int = 0, claims: bool = True) -> list[bool]:
    return [await record.gateway.offer_to_leave(seat(pod=pod), holds=holds, claims=claims) for pod in pods]


async def woken(record: Harness, act) -> list[str]:
    """Return who was told of after `act`, until it is quiet."""
    await record.registry.publish_instance(
        replace(INSTANCE, uid="uid-begin", name="uid-begin", quiet=("r1",))
    )
    told: list[str] = []
    async with aclosing(record.registry.demanded()) as changes, asyncio.timeout(20):
        first = asyncio.ensure_future(anext(changes))
        while not first.done():  # until the server listens for us
            await record.accept(instance="uid-begin", instance_uid="uid-begin")
            await asyncio.wait([first], timeout=0.1)
        await act()
        with suppress(TimeoutError):
            async with asyncio.timeout(_NOBODY_SECONDS) as until:
                async for uid in changes:
                    if uid not in ("uid-begin", "*"):
                        told.append(uid)
                        until.reschedule(asyncio.get_running_loop().time() + _NO_MORE_SECONDS)
    return told


async def test_work_is_counted_by_revision_and_state(published: Harness):
    """Due runs count for the current revision until one has started them; running ones for their own."""
    for _ in range(5):
        await published.accept()
    await published.claim(2)
    await published.age(7)

    assert await demand(published) == {"r1": Demand(due=3, running=2, oldest_seconds=7)}
    assert (await demand(published, most=2))["r1"].due == 2
    assert await demand(published, uid="uid-unknown") == {}

    await published.registry.publish_instance(replace(INSTANCE, generation=2, current_revision="r2"))

    assert await demand(published) == {
        "r1": Demand(running=2),
        "r2": Demand(due=3, oldest_seconds=7),
    }


async def test_what_nobody_may_start_is_no_work(published: Harness):
    """A suspended instance's new runs need no worker; a started one that is due again does."""
    await published.accept()
    (held,) = await published.claim(1)
    await published.hand_in(finish(held, "released"))
    await published.accept()
    await published.accept(ttl_seconds=5)
    await published.age(6)

    assert (await demand(published))["r1"].due == 2

    await published.registry.publish_instance(replace(INSTANCE, generation=2, suspended=True))

    assert (await demand(published))["r1"].due == 1


async def test_a_run_for_quiet_workers_is_told_of_at_once(published: Harness):
    """Who accepts it tells, once for many; of an instance that is watched nobody tells."""

    async def accept() -> None:
        await asyncio.gather(*(published.accept() for _ in range(30)))

    assert await woken(published, accept) == []
    await published.registry.publish_instance(QUIET)
    told = await woken(published, accept)
    assert set(told) == {"uid-a"}
    if published.database is not None:
        assert len(told) <= 3


async def test_a_suspended_instance_is_not_woken(published: Harness):
    """New runs of it wait until it goes on, which its spec says."""
    await published.registry.publish_instance(replace(QUIET, suspended=True))

    assert await woken(published, published.accept) == []


async def test_deduplicated_runs_wake_too(published: Harness):
    """The other way to accept tells as well, but not of a repeat."""
    await published.registry.publish_instance(QUIET)
    once = Dedupe(key="k", mode="simple")

    async def accept() -> None:
        await published.accept(dedupe=once)

    assert await woken(published, accept) == ["uid-a"]
    assert await woken(published, accept) == []


async def test_work_of_quiet_workers_that_nobody_claims_is_told_of(published: Harness):
    """Due again by time, or of an old revision: the scheduler finds it and tells."""
    await published.accept()
    (held,) = await published.claim(1)
    await published.registry.publish_instance(
        replace(INSTANCE, generation=2, current_revision="r2", quiet=("r1",))
    )
    await published.hand_in(finish(held, "released"))
    await published.age(5)

    async def look() -> None:
        await published.clock.due_bells(2)

    assert await woken(published, look) == ["uid-a"]


async def test_what_people_let_go_on_wakes_quiet_workers_at_once(published: Harness):
    """An answer, a doubt that is resolved, a queue that is resumed, an organisation that is started again."""
    ada, control = Actor(name="ada"), published.control
    await published.accept()
    (asks,) = await published.claim(1)
    await published.accept()
    (doubts,) = await published.claim(1)
    await published.hand_in(waits(asks, "ask"), finish(doubts, "ambiguous", steps=(step("pay", "started"),)))
    await published.registry.publish_instance(QUIET)
    said = Decision(namespace="acme", run=RunId(asks.run), step="ask", approved=True, actor="ada")
    found = Resolution(namespace="acme", run=RunId(doubts.run), answer="retry", actor="ada")

    async def resume() -> None:
        await control.pause("acme", "greeter", ada)
        await control.resume("acme", "greeter", ada)

    async def start() -> None:
        await control.stop("acme", ada, message="", cancels=False)
        await control.start("acme", ada)

    acts = [lambda: control.decide(said), lambda: control.resolve(found), resume, start]
    assert [await woken(published, act) for act in acts] == [["uid-a"]] * 4


async def test_not_more_workers_leave_than_may(published: Harness):
    """Of many that offer at once only as many as were asked for are taken, and each is told again."""
    await published.registry.ask_to_leave("uid-a", "r1", 2, drain=False)
    assert await published.gateway.asked_to_leave() == {("uid-a", "r1")}

    pods = [f"pod-{n}" for n in range(8)]
    answers = await asyncio.gather(*(offers(published, [pod]) for pod in pods))
    taken = [pod for pod, leaves in zip(pods, answers, strict=True) if leaves == [True]]

    assert len(taken) == 2
    assert await published.gateway.leavers() == {("uid-a", "r1", pod) for pod in taken}
    assert await published.gateway.asked_to_leave() == frozenset()
    assert await offers(published, taken) == [True, True]
    assert (await demand(published))["r1"] == Demand(leaving=tuple(sorted(taken)), asked=2)


async def test_a_worker_has_left_only_when_it_claims_nothing_and_holds_nothing(published: Harness):
    """What it said before it knew that it is to leave does not count."""
    await published.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    states = []
    for holds, claims in [(0, True), (0, True), (2, False), (0, False), (1, True), (0, False)]:
        assert await offers(published, ["p"], holds=holds, claims=claims) == [True]
        states.append((await demand(published))["r1"].left)

    assert states == [(), (), (), ("p",), (), ("p",)]


async def test_workers_with_runs_leave_after_the_idle_had_their_chance(published: Harness):
    """A busy worker is taken only if others remain to do the work, and only after a while."""
    await published.registry.ask_to_leave("uid-a", "r1", 1, drain=False)
    await published.age(IDLE_FIRST_SECONDS + 1)
    assert await offers(published, ["busy"], holds=1) == [False]

    await published.registry.ask_to_leave("uid-a", "r1", 1, drain=True)
    assert await offers(published, ["busy"], holds=1) == [False]
    await published.age(IDLE_FIRST_SECONDS + 1)
    assert await offers(published, ["busy"], holds=1) == [True]


async def test_a_wish_is_taken_back(published: Harness):
    """Work came: nobody else leaves, but who leaves does not come back."""
    await published.registry.ask_to_leave("uid-a", "r1", 3, drain=False)
    await offers(published, ["p"])
    await published.registry.ask_to_leave("uid-a", "r1", 1, drain=False)

    assert await offers(published, ["q", "p"]) == [False, True]


async def test_workers_whose_pods_are_gone_are_forgotten(published: Harness):
    """With them goes as much of the wish; forgetting twice, or a stranger, changes nothing."""
    await published.registry.ask_to_leave("uid-a", "r1", 3, drain=False)
    await offers(published, ["p", "q"])
    for _ in range(2):
        await published.registry.forget_leavers("uid-a", "r1", ["p", "stranger"])

    assert (await demand(published))["r1"] == Demand(leaving=("q",), asked=2)
    assert await published.gateway.leavers() == {("uid-a", "r1", "q")}
    assert await offers(published, ["r", "s"]) == [True, False]


async def test_nobody_is_asked_who_was_not(published: Harness):
    """Without a wish, of another revision or for an instance that is gone, everybody stays."""
    await published.registry.ask_to_leave("uid-a", "r2", 1, drain=False)
    await published.registry.ask_to_leave("uid-unknown", "r1", 1, drain=False)

    assert await offers(published, ["p"]) == [False]
    assert await published.gateway.asked_to_leave() == {("uid-a", "r2")}
