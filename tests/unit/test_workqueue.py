"""The work queue, on a clock of its own."""

import asyncio

import pytest

from everesthood.adapters.kubernetes.workqueue import WorkQueue

pytestmark = pytest.mark.looptime


def queue() -> WorkQueue[str]:
    return WorkQueue(rng=lambda: 0.5)


async def taken(line: WorkQueue[str], seconds: float = 1e6) -> tuple[str, float]:
    """Return the next key and when it came."""
    async with asyncio.timeout(seconds):
        key = await line.get()
    return key, asyncio.get_running_loop().time()


async def test_a_key_stands_in_line_once():
    """However often a key is added, it is worked on once."""
    line = queue()
    for key in ("a", "b", "a", "a"):
        line.add(key)

    assert [(await line.get()), (await line.get())] == ["a", "b"]
    assert len(line) == 0
    assert not line.is_idle


async def test_a_key_in_work_comes_again_afterwards():
    """A change during a pass leads to another pass, never to two at once."""
    line = queue()
    line.add("a")
    await line.get()
    line.add("a")
    line.add("a")

    assert len(line) == 0
    line.done("a")
    assert len(line) == 1
    assert await line.get() == "a"
    line.done("a")
    assert line.is_idle


async def test_the_earliest_time_counts():
    """A key that is due twice comes at the earlier time, and only then."""
    line = queue()
    line.add_after("a", 5)
    line.add_after("a", 2)
    line.add_after("a", 9)
    key, at = await taken(line)
    line.done(key)

    assert at == 2
    assert line.is_idle


async def test_adding_now_cancels_the_later_time():
    """A key that is added at once does not come again for its timer."""
    line = queue()
    line.add_after("a", 5)
    line.add("a")
    line.add_after("a", 1)
    line.done(await line.get())

    assert line.is_idle


async def test_a_late_key_lets_others_pass_but_not_for_ever():
    """What can wait stands behind what comes soon after it, and in front of what comes long after."""
    line: WorkQueue[str] = queue()
    line.add("late", late=True)
    for number in range(1500):
        line.add(str(number))
    order = [await line.get() for _ in range(1501)]

    assert order.index("late") == 1000


async def test_failures_wait_longer_each_time():
    """Half a second, then doubled, never more than five minutes; success forgets it all."""
    line, waits = queue(), []
    for _ in range(13):
        before = asyncio.get_running_loop().time()
        line.retry("a")
        key, at = await taken(line)
        line.done(key)
        waits.append(at - before)

    assert waits[:4] == pytest.approx([0.5, 1, 2, 4])
    assert max(waits) == pytest.approx(300)
    line.forget("a")
    before = asyncio.get_running_loop().time()
    line.retry("a", at_least=1.5)
    assert (await taken(line))[1] - before == pytest.approx(1.5)


@pytest.mark.parametrize(("luck", "wait"), [(0.0, 0.4), (1.0, 0.6)])
async def test_retries_are_spread(luck, wait):
    """A crowd that failed together does not come back together."""
    line = WorkQueue(rng=lambda: luck)
    line.retry("a")

    assert (await taken(line))[1] == pytest.approx(wait)


async def test_a_storm_of_edits_costs_a_handful_of_passes():
    """Ten seconds of edits lead to few passes, and the last edit is seen."""
    line, passes = queue(), []

    async def work() -> None:
        while True:
            key, at = await taken(line)
            passes.append(at)
            line.done(key)

    worker = asyncio.create_task(work())
    for _ in range(500):
        line.add_soon("a", edited=True)
        await asyncio.sleep(0.02)
    last = asyncio.get_running_loop().time()
    await asyncio.sleep(20)
    worker.cancel()

    assert passes[0] == pytest.approx(0.2)
    assert 1 < len(passes) <= 5
    assert passes[-1] >= last - 0.02


async def test_news_of_others_is_taken_up_sooner_than_edits():
    """A child's status does not wait as long as a storm's next edit; quiet makes all quick again."""
    line = queue()
    for _ in range(8):
        line.add_soon("a")
        key, at = await taken(line)
        line.done(key)
    before = asyncio.get_running_loop().time()
    line.add_soon("a", edited=True)
    line.add_soon("a")
    key, at = await taken(line)
    line.done(key)
    assert at - before == pytest.approx(3.2)

    await asyncio.sleep(6)
    before = asyncio.get_running_loop().time()
    line.add_soon("a", edited=True)
    assert (await taken(line))[1] - before == pytest.approx(0.2)


async def test_draining_waits_for_work_under_way():
    """A stop waits for passes, but not for ever."""
    line = queue()
    line.add("a")
    await line.get()
    asyncio.get_running_loop().call_later(3, line.done, "a")
    await line.drain(10)

    assert line.is_idle
    assert line.longest_running_seconds() == pytest.approx(0, abs=1)
