"""What is kept and for how long: what is old is forgotten whole, everything else stays."""

import time
from dataclasses import replace

import pytest
from tests.support.record import Harness, finish, new_id, seat, step

from everesthood.apis.wire import LogLine, WorkRequest
from everesthood.domain.keeping import Keeping
from everesthood.domain.runs import RunId, RunState
from everesthood.usecases.forget_old import Forgetter
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.contract

DAY = 86_400
KEEPING = Keeping(runs=30, dead_runs=90, log_lines=14, keys=7, audit=365)
_ENDS = {
    RunState.SUCCEEDED: "succeeded",
    RunState.DEAD: "failed",
    RunState.AMBIGUOUS: "ambiguous",
    RunState.CANCELLED: "cancelled",
}


async def over(record: Harness, state: RunState = RunState.SUCCEEDED, *, days_ago: float = 200) -> RunId:
    """Return a run with a step, a line and a label that was accepted then and ends now."""
    run = new_id(days_ago)
    await record.accept(id=run, labels={"team": "a"})
    (held,) = await record.claim(1)
    line = LogLine(run=held.run, fence=held.fence, at=time.time(), level="info", message="hello")
    await record.checkpoint(held, step("a"))
    await record.work.work(seat(), WorkRequest(logs=(line,)))
    await record.hand_in(finish(held, _ENDS[state]))
    assert (await record.run(run)).state is state
    return run


async def age(record: Harness, days: int) -> None:
    """Let everything be older, what is over too."""
    await record.age(days * DAY)


async def forget(record: Harness, **changes: int) -> dict[str, int]:
    """Do one pass."""
    done = await Forgetter(store=record.keeper, keeping=replace(KEEPING, **changes)).forget()
    return {what: count for what, count in done.items() if count}


async def test_an_old_run_is_forgotten_with_all_that_is_its_own(published: Harness):
    """Of a run that is forgotten no step, no line, and no label is left to be found by."""
    run = await over(published)
    await age(published, 31)

    done = await forget(published)

    assert done == {"runs": 1, "steps": 1, "log_lines": 1}
    assert await published.runs.get("acme", run) is None
    assert (await published.runs.steps(run), await published.runs.log(run)) == ([], [])
    assert await published.listed(RunFilter(namespace="acme", labels={"team": "a"})) == []
    if published.database is not None:
        async with published.database.acquire() as connection:
            assert await connection.fetchval("select count(*) from run_label") == 0


@pytest.mark.parametrize("state", [RunState.DEAD, RunState.AMBIGUOUS])
async def test_what_somebody_may_want_to_replay_is_kept_longer(published: Harness, state: RunState):
    """Dead and ambiguous runs stay when others of their age go, and go in the end."""
    run = await over(published, state)
    await age(published, 31)
    assert "runs" not in await forget(published)
    assert (await published.run(run)).state is state

    await age(published, 60)

    assert (await forget(published))["runs"] == 1


async def test_a_run_that_ended_lately_stays_however_long_it_took(published: Harness):
    """The days count from the end of a run."""
    run = await over(published, days_ago=400)
    await age(published, 29)

    assert "runs" not in await forget(published)
    assert (await published.run(run)).state is RunState.SUCCEEDED


async def test_a_run_that_is_not_over_is_never_forgotten(published: Harness):
    """Accepted means durable: neither a waiting nor a running run is ever deleted."""
    running, waiting = new_id(900), new_id(900)
    await published.accept(id=running, max_run_seconds=10**8)
    await published.claim(1)
    await published.accept(id=waiting)
    await age(published, 800)

    assert "runs" not in await forget(published)
    assert (await published.run(running)).state is RunState.RUNNING
    assert (await published.run(waiting)).state is RunState.QUEUED


async def test_lines_are_forgotten_before_their_run(published: Harness):
    """The log of a run may be gone while the run with its steps is still there."""
    run = await over(published)
    await age(published, 15)

    assert await forget(published) == {"log_lines": 1}
    assert await published.runs.log(run) == []
    assert [found.name for found in await published.runs.steps(run)] == ["a"]


async def test_a_key_is_free_again_once_it_is_forgotten(published: Harness):
    """A repeat within the days is the same run, after them it is a run of its own."""
    first = await published.accept(idempotency_key="k", request_digest=b"d")
    await age(published, 6)
    await forget(published)
    assert (await published.accept(idempotency_key="k", request_digest=b"d")).run == first.run

    await age(published, 2)

    assert await forget(published) == {"keys": 1}
    assert not (await published.accept(idempotency_key="k", request_digest=b"d")).repeated


async def test_the_audit_log_loses_its_oldest_lines_only(published: Harness):
    """The audit log is as long as was asked for, whatever becomes of the runs that it speaks of."""
    await published.accept()
    await age(published, 200)
    await published.accept()
    assert "audit_lines" not in await forget(published)

    await age(published, 200)

    assert (await forget(published))["audit_lines"] == 1
    assert len(await published.audited()) == 1


async def test_nought_days_mean_for_ever(published: Harness):
    """Who wants nothing to be deleted says so, kind by kind."""
    await over(published)
    await published.accept(idempotency_key="k", request_digest=b"d")
    await age(published, 9000)

    assert await forget(published, runs=0, dead_runs=0, log_lines=0, keys=0, audit=0) == {}


async def test_a_walk_passes_what_stays(published: Harness):
    """Batches go on behind what they leave, so that each row of a walk is looked at once."""
    kept = [await over(published, RunState.DEAD) for _ in range(3)]
    gone = [await over(published) for _ in range(3)]
    await age(published, 31)
    place: str | None = None
    counts: list[int] = []
    while True:
        batch = await published.keeper.forget("runs", KEEPING, place, 2)
        counts.append(batch.counts["runs"])
        place = batch.next
        if place is None:
            break

    assert (sum(counts), len(counts)) == (3, 4)
    assert [await published.runs.get("acme", run) is None for run in kept] == [False] * 3
    assert [await published.runs.get("acme", run) is None for run in gone] == [True] * 3
