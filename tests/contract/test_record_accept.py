"""What the web API may rely on when it accepts, reads and cancels runs."""

import asyncio
from dataclasses import replace

import msgspec
import pytest
from tests.support.record import INSTANCE, Harness, finish, new_id, seat, step, wish

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import LogLine, WorkRequest
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.runs import RunId, RunState
from everesthood.usecases.ports.record import RunFilter
from everesthood.usecases.ports.registry import PublishedRevision

pytestmark = pytest.mark.contract


async def test_an_accepted_run_is_there_as_it_was_asked_for(published: Harness):
    """What was accepted can be read at once, and the bell of its instance is named."""
    asked = wish()

    accepted = await published.runs.accept(asked)

    run = await published.run(asked.id)
    assert (accepted.run, accepted.ring, accepted.repeated) == (asked.id, ("uid-a", "r1"), False)
    assert (run.state, run.input, run.output) == (RunState.QUEUED, asked.input, None)
    assert (run.requested_by, run.request_id, run.instance) == ("alice", "req-1", "greeter")
    assert (run.attempt, run.fence, run.revision, run.started_at) == (0, 0, None, None)
    assert await published.audited() == [("alice", "run.accept", f"run/{asked.id}")]


async def test_json_stays_as_it_was_written(published: Harness):
    """Inputs come back byte for byte: large numbers, key order and escapes included."""
    odd = rb'{"b":1e400, "a":123456789012345678901234567890,"a":"\u0000 \ud800"}'

    accepted = await published.accept(input=odd)

    assert (await published.run(accepted.run)).input == odd
    assert bytes((await published.claim())[0].input) == odd


async def test_the_same_key_and_request_is_one_run(published: Harness):
    """A repeat under one idempotency key finds the earlier run and rings nobody."""
    first = await published.accept(idempotency_key="k", request_digest=b"d")

    second = await published.accept(idempotency_key="k", request_digest=b"d")

    assert (second.run, second.repeated, second.ring) == (first.run, True, None)
    assert len(await published.listed(RunFilter(namespace="acme"))) == 1


async def test_the_same_key_with_another_request_is_refused(published: Harness):
    """One key never stands for two different requests."""
    await published.accept(idempotency_key="k", request_digest=b"d")

    with pytest.raises(Conflict) as refused:
        await published.accept(idempotency_key="k", request_digest=b"other")

    assert refused.value.reason is Reason.IDEMPOTENCY_CONFLICT


async def test_a_hundred_repeats_at_once_are_one_run(published: Harness):
    """However many repeats of a key arrive together, one run comes of it."""
    accepts = [published.accept(idempotency_key="k", request_digest=b"d") for _ in range(100)]

    answers = await asyncio.gather(*accepts)

    assert len({answer.run for answer in answers}) == 1
    assert sum(not answer.repeated for answer in answers) == 1


async def test_keys_of_other_instances_are_other_keys(published: Harness):
    """Two instances may use the same key for different things."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    first = await published.accept(idempotency_key="k", request_digest=b"d")

    second = await published.accept(
        idempotency_key="k", request_digest=b"x", instance_uid="uid-b", instance="other"
    )

    assert second.run != first.run


async def test_an_unknown_instance_is_not_found(record: Harness):
    """Nothing is accepted for an instance that is not published."""
    with pytest.raises(NotFound) as refused:
        await record.accept(idempotency_key="k", request_digest=b"d")

    assert refused.value.reason is Reason.INSTANCE_NOT_FOUND
    assert await record.listed(RunFilter(namespace="acme")) == []
    assert await record.audited() == []


async def test_one_bad_request_spoils_no_other(published: Harness):
    """Requests that are committed together are answered each for itself."""
    good = [wish() for _ in range(20)]
    taken = await published.accept()
    bad = [wish(instance_uid="gone"), wish(id=taken.run)]

    answers = await asyncio.gather(
        *(published.runs.accept(request) for request in [*good, *bad]), return_exceptions=True
    )

    assert [getattr(answer, "run", None) for answer in answers[:20]] == [request.id for request in good]
    assert [type(answer) for answer in answers[20:]] == [NotFound, Conflict]


@pytest.mark.parametrize(
    ("change", "ring"),
    [({"suspended": True}, None), ({"current_revision": None}, None), ({}, ("uid-a", "r1"))],
)
async def test_a_bell_is_rung_only_where_somebody_may_answer(record: Harness, change: dict, ring: object):
    """A suspended instance, or one without a good revision, keeps the run and wakes nobody."""
    await record.registry.publish_instance(replace(INSTANCE, **change))

    assert (await record.accept()).ring == ring


async def test_the_target_is_the_live_instance_of_that_name(published: Harness):
    """Accepting sees the instance with the content of its current revision, and no deleted one."""
    spec = b'{"displayName":"Greeting"}'
    await published.registry.publish_revision(
        PublishedRevision(namespace="acme", digest="r1", template="greeting", spec=spec)
    )
    found = await published.runs.target("acme", "greeter")

    await published.registry.remove_instance("uid-a")

    assert found is not None
    assert (found.uid, found.current_revision, found.template_spec) == ("uid-a", "r1", spec)
    assert await published.runs.target("acme", "greeter") is None
    assert await published.runs.target("other", "greeter") is None


async def test_a_run_is_invisible_from_another_namespace(published: Harness):
    """An id is no key: who is not in the run's namespace finds nothing and cancels nothing."""
    accepted = await published.accept()

    assert await published.runs.get("other", accepted.run) is None
    assert await published.runs.cancel("other", accepted.run, "mallory", "r") is None
    assert (await published.run(accepted.run)).state is RunState.QUEUED


@pytest.mark.parametrize("strange", ["", "x", "../etc", "0" * 400])
async def test_an_id_that_is_none_is_nowhere(published: Harness, strange: str):
    """A malformed id is simply not there."""
    assert await published.runs.get("acme", RunId(strange)) is None
    assert await published.runs.cancel("acme", RunId(strange), "alice", "r") is None


async def test_lists_are_newest_first_in_pages(published: Harness):
    """Pages follow each other without a gap or a repeat."""
    ids = sorted([(await published.accept()).run for _ in range(7)], reverse=True)

    pages, before = [], None
    while page := await published.listed(RunFilter(namespace="acme", before=before, limit=3)):
        pages.append([run.id for run in page])
        before = page[-1].id

    assert pages == [ids[:3], ids[3:6], ids[6:]]


async def test_lists_filter_by_instance_and_state(published: Harness):
    """A filter leaves exactly what it says, without inputs and outputs."""
    await published.registry.publish_instance(replace(INSTANCE, uid="uid-b", name="other"))
    await published.accept(instance_uid="uid-b", instance="other")
    done, queued = [(await published.accept()).run for _ in range(2)]
    held = next(a for a in await published.claim() if a.run == done)
    await published.hand_in(finish(held, output=msgspec.Raw(b"1")))

    by_state = RunFilter(
        namespace="acme", instance="greeter", states=frozenset({RunState.SUCCEEDED, RunState.DEAD})
    )
    by_instance = await published.listed(RunFilter(namespace="acme", instance="greeter"))
    succeeded = await published.listed(by_state)

    assert {run.id for run in by_instance} == {done, queued}
    assert [run.id for run in succeeded] == [done]
    assert (succeeded[0].input, succeeded[0].output) == (b"", None)
    assert await published.listed(RunFilter(namespace="other")) == []


async def test_cancelling_a_waiting_run_ends_it(published: Harness):
    """A queued run that is cancelled never starts; doing it twice changes nothing."""
    accepted = await published.accept()

    first = await published.runs.cancel("acme", accepted.run, "bob", "r2")
    second = await published.runs.cancel("acme", accepted.run, "carol", "r3")

    assert first is not None
    assert second == first
    assert (first.state, first.reason) == (RunState.CANCELLED, Reason.CANCELLED)
    assert first.message == "Cancelled by bob."
    assert first.finished_at is not None
    assert await published.claim() == ()
    assert (await published.audited())[1:] == [("bob", "run.cancel", f"run/{accepted.run}")]


async def test_cancelling_a_finished_run_changes_nothing(published: Harness):
    """A result stays a result."""
    accepted = await published.accept()
    await published.hand_in(finish((await published.claim())[0]))

    run = await published.runs.cancel("acme", accepted.run, "bob", "r")

    assert run is not None
    assert (run.state, run.cancel_requested) == (RunState.SUCCEEDED, False)


async def test_a_log_is_read_in_order_and_from_where_one_was(published: Harness):
    """Lines come in the order in which they were written, and only what follows a given line."""
    await published.accept()
    held = (await published.claim())[0]
    lines = tuple(
        LogLine(run=held.run, fence=held.fence, at=1.7e9 + n, level="info", message=f"line {n}", step="s")
        for n in range(5)
    )
    await published.work.work(seat(), WorkRequest(logs=lines))

    run = RunId(held.run)
    everything = await published.runs.log(run)
    rest = await published.runs.log(run, after=everything[1].seq, limit=2)

    assert [line.message for line in everything] == [f"line {n}" for n in range(5)]
    assert [line.message for line in rest] == ["line 2", "line 3"]
    assert (everything[0].level, everything[0].step, everything[0].at.timestamp()) == ("info", "s", 1.7e9)


async def test_a_watcher_is_woken_by_every_kind_of_change(published: Harness):
    """Whoever watches a run hears of its start, its steps and its end, without asking again and again."""
    accepted = await published.accept()
    watch = published.runs.watch(accepted.run)

    async def woken_by(change) -> None:
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        await change
        async with asyncio.timeout(4):
            await waiting

    held = published.claim()
    await woken_by(held)
    (running,) = (await published.runs.get("acme", accepted.run),)
    assert running is not None
    held_now = type("H", (), {"run": running.id, "fence": running.fence})
    await woken_by(published.checkpoint(held_now, step("a")))
    await woken_by(published.hand_in(finish(held_now)))
    await watch.aclose()


async def test_an_unknown_run_has_no_steps_and_no_log(published: Harness):
    """Nothing is there for an id that nobody has."""
    assert await published.runs.steps(new_id()) == []
    assert await published.runs.log(new_id()) == []
