"""What a request may say beside its input: how urgent it is, how long it may wait, what it repeats."""

import pytest
from tests.support.record import Harness, finish, new_id

from everesthood.apis.reasons import Reason
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.contract


async def test_what_was_said_can_be_read(published: Harness):
    """Priority, expiry, labels and the replayed run come back, from a run and from a list."""
    old = new_id()
    accepted = await published.accept(
        priority=7, ttl_seconds=60, labels={"team": "sales", "a/b": ""}, replay_of=old
    )

    run = await published.run(accepted.run)
    (listed,) = await published.listed(RunFilter(namespace="acme"))

    for found in (run, listed):
        assert (found.priority, found.replay_of, found.template) == (7, old, "greeting")
        assert found.labels == {"team": "sales", "a/b": ""}
        assert found.expires_at is not None
        assert (found.expires_at - found.created_at).total_seconds() == pytest.approx(60)
    assert await published.audited() == [("alice", "run.replay", f"run/{accepted.run}")]


async def test_the_most_urgent_run_starts_first(published: Harness):
    """Among equals the first to come; also when several are claimed at once."""
    ids = [(await published.accept(priority=p)).run for p in (0, 5, 9, 5, 0)]

    claimed = [held.run for want in (1, 2, 5) for held in await published.claim(want)]

    assert claimed == [ids[n] for n in (2, 1, 3, 0, 4)]


async def test_a_run_that_waited_too_long_expires(published: Harness):
    """It is never claimed after its time, and the clock ends it."""
    accepted = await published.accept(ttl_seconds=10)
    other = await published.accept(ttl_seconds=1000)
    await published.age(11)

    claimed = await published.claim()
    counts = await published.clock.rescue()

    run = await published.run(accepted.run)
    assert [held.run for held in claimed] == [other.run]
    assert dict(counts) == {"expired": 1}
    assert (run.state, run.reason) == (RunState.EXPIRED, Reason.WAITED_TOO_LONG)
    assert run.finished_at is not None


async def test_a_run_that_started_in_time_may_go_on(published: Harness):
    """The time is for the first start only."""
    await published.accept(ttl_seconds=10)
    (held,) = await published.claim()
    await published.age(11)
    await published.hand_in(finish(held, "released"))

    counts = await published.clock.rescue()

    assert dict(counts) == {}
    assert len(await published.claim()) == 1


async def test_lists_filter_by_reason(published: Harness):
    """Dead letters of one kind are found."""
    for _ in range(2):
        await published.accept()
    first, second = await published.claim()
    await published.hand_in(finish(first, "failed", reason="HostRefused"), finish(second, "failed"))

    found = await published.listed(RunFilter(namespace="acme", reason="HostRefused"))

    assert [run.id for run in found] == [first.run]
