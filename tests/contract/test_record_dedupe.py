"""Which requests become one run, however they arrive."""

import asyncio
from dataclasses import replace

import pytest
from tests.support.record import INSTANCE, Harness, finish

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.runs import Dedupe, RunState
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.contract
SIMPLE = Dedupe(key="k")
THROTTLE = Dedupe(key="k", mode="throttle", seconds=60)
DEBOUNCE = Dedupe(key="k", mode="debounce", seconds=60)


async def count(record: Harness) -> int:
    return len(await record.listed(RunFilter(namespace="acme", limit=1000)))


async def test_while_a_run_is_not_over_it_is_the_answer(published: Harness):
    """Queued or running: the same run; once it is over, a new one."""
    first = await published.accept(dedupe=SIMPLE)
    queued = await published.accept(dedupe=SIMPLE)
    (held,) = await published.claim()
    running = await published.accept(dedupe=SIMPLE)
    await published.hand_in(finish(held))

    after = await published.accept(dedupe=SIMPLE)

    assert (first.repeated, first.ring) == (False, ("uid-a", "r1"))
    assert {(a.run, a.repeated, a.ring) for a in (queued, running)} == {(first.run, True, None)}
    assert (after.run != first.run, after.repeated) == (True, False)


async def test_one_run_for_each_window(published: Harness):
    """Within the window the run of before is the answer, even when it is over; after it, a new one."""
    first = await published.accept(dedupe=THROTTLE)
    await published.hand_in(finish((await published.claim())[0]))
    await published.age(50)
    within = await published.accept(dedupe=THROTTLE)
    await published.age(11)

    after = await published.accept(dedupe=THROTTLE)

    assert (within.run, within.repeated) == (first.run, True)
    assert (after.run != first.run, after.repeated) == (True, False)


async def test_the_last_request_counts(published: Harness):
    """A debounced run starts once it is quiet, with what was asked for last; its bell sets an idle worker's alarm."""
    first = await published.accept(dedupe=DEBOUNCE, input=b"1", priority=1)
    await published.age(50)
    second = await published.accept(
        dedupe=DEBOUNCE, input=b"2", requested_by="bob", priority=2, labels={"a": "b"}
    )
    await published.age(50)
    early = await published.claim()
    await published.age(11)
    (held,) = await published.claim()

    run = await published.run(first.run)
    assert (first.ring, second.run, second.repeated, second.ring) == (("uid-a", "r1"), first.run, True, None)
    assert early == ()
    assert (held.run, bytes(held.input)) == (first.run, b"2")
    assert (run.requested_by, run.priority, run.labels) == ("alice", 2, {"a": "b"})
    assert await published.audited() == [
        ("alice", "run.accept", f"run/{first.run}"),
        ("bob", "run.debounce", f"run/{first.run}"),
    ]


async def test_a_run_that_has_started_is_not_replaced(published: Harness):
    """What came too late becomes the next run, also when the first is queued again."""
    first = await published.accept(dedupe=DEBOUNCE, input=b"1")
    await published.age(61)
    (held,) = await published.claim()

    second = await published.accept(dedupe=DEBOUNCE, input=b"2")
    await published.hand_in(finish(held, "released"))
    third = await published.accept(dedupe=DEBOUNCE, input=b"3")

    assert second.run != first.run
    assert third.run == second.run
    assert (await published.run(first.run)).input == b"1"


@pytest.mark.parametrize("dedupe", [SIMPLE, THROTTLE, DEBOUNCE], ids=lambda one: one.mode)
async def test_a_hundred_at_once_are_one_run(published: Harness, dedupe: Dedupe):
    """No race makes two."""
    answers = await asyncio.gather(*(published.accept(dedupe=dedupe) for _ in range(100)))

    assert len({answer.run for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1
    assert await count(published) == 1


async def test_other_keys_and_instances_are_other_runs(published: Harness):
    """A key is one instance's."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    wishes = [
        {"dedupe": SIMPLE},
        {"dedupe": replace(SIMPLE, key="other")},
        {"dedupe": SIMPLE, "instance_uid": "uid-b", "instance": "other"},
        {},
    ]

    answers = await asyncio.gather(*(published.accept(**one) for one in wishes * 2))

    assert len({answer.run for answer in answers}) == 5


async def test_the_idempotency_key_goes_first(published: Harness):
    """A repeat finds what its first request found, even when that is over; a clash is refused."""
    keyed = {"dedupe": SIMPLE, "idempotency_key": "i", "request_digest": b"d"}
    first = await published.accept(dedupe=SIMPLE)
    second = await published.accept(**keyed)
    await published.hand_in(finish((await published.claim())[0]))

    third = await published.accept(**keyed)
    with pytest.raises(Conflict) as refused:
        await published.accept(**{**keyed, "request_digest": b"other"})

    assert (second.run, third.run, third.repeated) == (first.run, first.run, True)
    assert refused.value.reason is Reason.IDEMPOTENCY_CONFLICT
    assert await count(published) == 1


async def test_repeats_and_clashes_at_once(published: Harness):
    """One idempotency key stands for one request, with whatever dedupe keys it comes."""
    wishes = [
        {"dedupe": Dedupe(key=f"k{n % 2}"), "idempotency_key": "i", "request_digest": b"%d" % (n % 2)}
        for n in range(40)
    ]

    answers = await asyncio.gather(*(published.accept(**one) for one in wishes), return_exceptions=True)

    assert sum(isinstance(answer, Conflict) for answer in answers) == 20
    assert len({answer.run for answer in answers if not isinstance(answer, Exception)}) == 1
    assert await count(published) == 1


async def test_nothing_is_accepted_for_nobody(record: Harness):
    """An unknown instance is not found, with a dedupe key too."""
    with pytest.raises(NotFound):
        await record.accept(dedupe=SIMPLE, idempotency_key="i", request_digest=b"d")


async def test_a_cancelled_run_makes_way(published: Harness):
    """Whoever cancels a debounced run gets a new one next time."""
    first = await published.accept(dedupe=DEBOUNCE)
    await published.runs.cancel("acme", first.run, "bob", "r")

    second = await published.accept(dedupe=DEBOUNCE)

    assert second.run != first.run
    assert (await published.run(first.run)).state is RunState.CANCELLED


async def test_a_request_that_meets_a_claim_is_not_lost(published: Harness):
    """Whoever debounces while workers claim gets the run before it started, or one of their own."""
    dedupe = Dedupe(key="k", mode="debounce", seconds=0)
    claimed: list[bytes] = []

    async def ask() -> None:
        for n in range(60):
            await published.accept(dedupe=dedupe, input=b"%d" % n)

    async def work() -> None:
        while not asking.done():
            claimed.extend(bytes(held.input) for held in await published.claim(1))
            await asyncio.sleep(0)

    asking = asyncio.ensure_future(ask())
    await asyncio.gather(asking, work(), work())
    claimed += [bytes(held.input) for held in await published.claim()]

    assert claimed[-1] == b"59"
    assert len(set(claimed)) == len(claimed) == await count(published)
