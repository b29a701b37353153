"""Accepting, following and cancelling runs, over the memory twin of the record."""

import asyncio
import itertools
import json
from collections import OrderedDict
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from tests.support.web import REVISION, TEMPLATE, UIDS, publish

from everesthood.adapters.languages import Languages
from everesthood.adapters.memory import MemoryRegistry, MemoryRuns, MemoryWork, Record
from everesthood.adapters.memory.bell import MemoryBell
from everesthood.apis import wire
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, Invalid, NotFound, Unavailable
from everesthood.domain.runs import Dedupe, Run, RunState
from everesthood.usecases import follow_run as following
from everesthood.usecases import request_run as requesting
from everesthood.usecases.cancel_run import cancel_run
from everesthood.usecases.follow_run import follow_run
from everesthood.usecases.get_run import find_run
from everesthood.usecases.list_runs import list_runs
from everesthood.usecases.ports.record import RunFilter, StoredLine, WorkerSeat
from everesthood.usecases.ports.registry import PublishedInstance, PublishedRevision
from everesthood.usecases.replay_runs import Replay, replay_run, replay_runs
from everesthood.usecases.request_run import RequestRun, Wish


class World:
    def __init__(self):
        self.record = Record()
        self.runs = MemoryRuns(self.record)
        self.registry = MemoryRegistry(self.record)
        self.bell = MemoryBell()
        counter = itertools.count()
        self.request = RequestRun(
            runs=self.runs,
            bell=self.bell,
            schemas=Languages(),
            now=lambda: datetime.now(UTC),
            random=lambda size: next(counter).to_bytes(size, "big"),
        )

    async def accept(self, given='{"text": "x"}', instance="summarizer", key=None):
        wish = Wish(
            namespace="acme", instance=instance, input=given.encode(), requested_by="ada",
            request_id="r", idempotency_key=key,
        )  # fmt: skip
        return await self.request(wish)

    async def claim(self):
        seat = WorkerSeat(
            instance_uid=UIDS["acme", "summarizer"], namespace="acme", instance="summarizer",
            revision=REVISION, pod="w",
        )  # fmt: skip
        work = MemoryWork(self.record)
        held = (await work.work(seat, wire.WorkRequest(want=1))).assignments[0]

        async def hand_in(**what):
            await work.work(seat, wire.WorkRequest(**what))

        return held, hand_in


@pytest.fixture
async def world():
    found = World()
    await publish(found.registry)
    return found


async def test_an_accepted_run_has_the_limits_of_its_template(world):
    """maxAttempts and maxRunSeconds of the revision travel with the run."""
    answer = await world.accept()

    kept = world.record.rows[answer.run.id].request
    assert (kept.max_attempts, kept.max_run_seconds) == (3, 60)
    assert (await world.runs.get("acme", answer.run.id)).input == b'{"text": "x"}'
    assert world.bell.waiting[UIDS["acme", "summarizer"], REVISION] == 1


async def test_white_space_and_order_do_not_make_another_request(world):
    """A retry by a client that writes JSON differently is still the same request."""
    first = await world.accept('{"text":"x"}', key="k")
    again = await world.accept(' { "text" : "x" } ', key="k")

    assert (again.repeated, again.run.id) == (True, first.run.id)
    assert not first.repeated
    assert world.bell.waiting.total() == 1


@pytest.mark.parametrize("size", [1_000, 10_000, 250_000])
async def test_inputs_of_every_size_are_checked(world, size):
    """Small ones at once, large ones in a thread, with the same verdict."""
    assert (await world.accept(json.dumps({"text": "x" * size}))).run.state is RunState.QUEUED
    with pytest.raises(Invalid) as caught:
        await world.accept(json.dumps({"text": "x" * size, "a": 1, "b": {}}))
    assert [p.path for p in caught.value.problems] == ["/input"]


async def test_all_problems_are_told_at_once(world):
    """The first in the sentence, all of them in the list."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}}
    await republish(world, "b" * 16, inputSchema=schema)
    with pytest.raises(Invalid, match=r"/input/a .*\(and 1 more\)") as caught:
        await world.accept('{"a": 1, "b": 2}')
    assert {p.path for p in caught.value.problems} == {"/input/a", "/input/b"}


async def test_without_a_schema_any_json_is_an_input(world):
    """An author who asks for nothing gets whatever is sent, as long as it is JSON."""
    await republish(world, "c" * 16, inputSchema={})
    for given in ("{}", "[]", "null", '"text"', "1"):
        assert (await world.accept(given)).run.input == given.encode()
    for given in ("", "{", "nul", '{"a": NaN}', "[" * 5000 + "]" * 5000):
        with pytest.raises(Invalid):
            await world.accept(given)


async def test_a_new_revision_is_a_new_contract(world):
    """As soon as a revision is current, its schema holds; the old one is not remembered for it."""
    await world.accept()
    await republish(world, "d" * 16, inputSchema={"type": "array"})

    with pytest.raises(Invalid):
        await world.accept()


async def test_remembered_contracts_are_bounded(world, monkeypatch):
    """However many revisions pass by, memory does not grow."""
    monkeypatch.setattr(requesting, "_MOST_CONTRACTS", 2)
    for number in range(5):
        await republish(world, f"{number:016x}")
        await world.accept()

    assert isinstance(world.request._contracts, OrderedDict)
    assert len(world.request._contracts) == 2


async def test_a_run_needs_an_instance_that_can_run(world):
    """No instance: not found. Never a good revision: a conflict that names the next command."""
    with pytest.raises(NotFound) as missing:
        await world.accept(instance="none")
    with pytest.raises(Conflict, match="kubectl describe agi young") as young:
        await world.accept(instance="young")
    assert (missing.value.reason, young.value.reason) == (
        Reason.INSTANCE_NOT_FOUND,
        Reason.INSTANCE_NOT_READY,
    )


async def test_a_suspended_instance_accepts_and_rings_nobody(world):
    """Accepted runs wait until the owner resumes."""
    await republish(world, REVISION, suspended=True)

    assert (await world.accept()).run.state is RunState.QUEUED
    assert world.bell.waiting.total() == 0


async def test_the_run_of_an_old_key_may_be_gone(world):
    """A key that outlived its run says so instead of making a second run."""
    first = await world.accept(key="k")
    del world.record.rows[first.run.id]

    with pytest.raises(NotFound):
        await world.accept(key="k")


async def republish(world, digest, *, suspended=False, **template):
    spec = json.dumps({**TEMPLATE, **template}).encode()
    await world.registry.publish_revision(
        PublishedRevision(namespace="acme", digest=digest, template="summarizer", spec=spec)
    )
    known = world.record.instances[UIDS["acme", "summarizer"]].published
    changed = replace(known, generation=known.generation + 1, current_revision=digest, suspended=suspended)
    assert isinstance(changed, PublishedInstance)
    await world.registry.publish_instance(changed)


async def test_a_change_that_nobody_tells_of_is_seen_all_the_same(world, monkeypatch):
    """A lost notification delays a follower, it does not stop it."""
    monkeypatch.setattr(following, "_LOOK_SECONDS", 0.02)

    async def deaf(_run):
        raise Unavailable("no notifications today")
        yield

    monkeypatch.setattr(world.runs, "watch", deaf)
    run = (await world.accept()).run
    seen = asyncio.create_task(collect(follow_run(world.runs, run)))
    held, hand_in = await world.claim()
    end = wire.Finish(run=held.run, fence=held.fence, outcome="succeeded", output=msgspec.Raw(b"1"))
    await hand_in(finished=(end,))
    async with asyncio.timeout(5):
        changes = await seen

    assert isinstance(changes[-1], Run)
    assert changes[-1].state is RunState.SUCCEEDED


async def test_a_long_log_is_followed_page_by_page(world, monkeypatch):
    """Every line comes once, however many there are."""
    monkeypatch.setattr(following, "_PAGE", 3)
    run = (await world.accept()).run
    held, hand_in = await world.claim()
    lines = (
        wire.LogLine(run=held.run, fence=held.fence, at=1.0, level="info", message=str(n)) for n in range(10)
    )
    await hand_in(logs=tuple(lines))
    await hand_in(finished=(wire.Finish(run=held.run, fence=held.fence, outcome="succeeded"),))

    changes = await collect(follow_run(world.runs, run, after=2))
    assert [c.message for c in changes if isinstance(c, StoredLine)] == [str(n) for n in range(2, 10)]


async def test_following_a_run_that_vanishes_ends(world):
    """Retention may remove a run under a follower."""
    run = (await world.accept()).run
    del world.record.rows[run.id]

    with pytest.raises(NotFound):
        await collect(follow_run(world.runs, run))


async def test_who_stops_following_leaves_nothing_behind(world):
    """A closed stream ends its listening."""
    run = (await world.accept()).run
    changes = follow_run(world.runs, run)
    await anext(changes)
    await asyncio.sleep(0)
    await changes.aclose()

    assert len(asyncio.all_tasks()) == 1


async def collect(changes):
    return [change async for change in changes]


async def test_a_run_that_ends_while_it_is_cancelled_is_a_conflict(world, monkeypatch):
    """The truth is told: it was over before it could be cancelled."""
    run = (await world.accept()).run
    held, hand_in = await world.claim()
    plain = world.runs.cancel

    async def late(*arguments):
        await hand_in(finished=(wire.Finish(run=held.run, fence=held.fence, outcome="succeeded"),))
        return await plain(*arguments)

    monkeypatch.setattr(world.runs, "cancel", late)
    with pytest.raises(Conflict, match="succeeded") as caught:
        await cancel_run(world.runs, run, actor="ada", request_id="r")
    assert caught.value.reason is Reason.RUN_FINISHED


async def test_a_run_that_vanishes_while_it_is_cancelled_is_not_found(world):
    """Nothing is claimed of a run that is no longer there."""
    run = (await world.accept()).run
    del world.record.rows[run.id]

    with pytest.raises(NotFound):
        await cancel_run(world.runs, run, actor="ada", request_id="r")


@pytest.mark.parametrize(
    "state", sorted(set(RunState) - {RunState.QUEUED, RunState.RUNNING, RunState.WAITING})
)
async def test_what_is_over_cannot_be_cancelled(world, state):
    """Each end has its word; a cancelled run is simply returned."""
    run = replace((await world.accept()).run, state=state)
    if state is RunState.CANCELLED:
        assert await cancel_run(world.runs, run, actor="ada", request_id="r") is run
        return
    with pytest.raises(Conflict, match=r"is over: it \w+"):
        await cancel_run(world.runs, run, actor="ada", request_id="r")


async def test_all_that_is_not_there_is_told_alike(world):
    """An id of another namespace, of another instance, of nobody and no id at all: one kind of sentence."""
    run = (await world.accept()).run.id
    for namespace, wanted, instance in (
        ("globex", run, ""),
        ("acme", "nonsense", ""),
        ("acme", run, "other"),
    ):
        with pytest.raises(NotFound) as caught:
            await find_run(world.runs, namespace, wanted, instance)
        assert caught.value.message.startswith(f"There is no run {wanted!r}")
    assert (await find_run(world.runs, "acme", run, "summarizer")).id == run


async def test_the_last_page_has_no_next(world):
    """A list ends; a cursor that is none is refused before the record sees it."""
    for _ in range(3):
        await world.accept()
    first, cursor = await list_runs(world.runs, RunFilter(namespace="acme", limit=2))
    rest, end = await list_runs(world.runs, RunFilter(namespace="acme", limit=2, before=cursor))

    assert (len(first), len(rest), end) == (2, 1, None)
    with pytest.raises(Invalid):
        await list_runs(world.runs, RunFilter(namespace="acme", before="x"))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"priority": 10}, "/priority"),
        ({"priority": -1}, "/priority"),
        ({"ttl_seconds": 0}, "/ttlSeconds"),
        ({"ttl_seconds": 2_592_001}, "/ttlSeconds"),
        ({"labels": {str(n): "" for n in range(17)}}, "/labels"),
        ({"labels": {"": "x"}}, "/labels"),
        ({"labels": {"a": "x" * 64}}, "/labels"),
        ({"labels": {"a": "b c"}}, "/labels"),
        ({"dedupe": Dedupe(key="ä")}, "/dedupe/key"),
        ({"dedupe": Dedupe(key="k", mode="throttle")}, "/dedupe/seconds"),
        ({"dedupe": Dedupe(key="k", mode="debounce", seconds=604_801)}, "/dedupe/seconds"),
        ({"dedupe": Dedupe(key="k", mode="debounce", seconds=9), "ttl_seconds": 9}, "/ttlSeconds"),
    ],
)
async def test_what_is_said_beside_the_input_is_bounded(world, options, path):
    """Nothing of a refused request is kept, and its field is named."""
    with pytest.raises(Invalid) as caught:
        await world.request(wish(**options))

    assert [p.path for p in caught.value.problems] == [path]
    assert not world.record.rows


async def test_other_options_are_another_request(world):
    """One key stands for one request, everything that it says included."""
    await world.request(wish(idempotency_key="k", priority=1))
    with pytest.raises(Conflict):
        await world.request(wish(idempotency_key="k", priority=2))
    assert (await world.request(wish(idempotency_key="k", priority=1))).repeated


def wish(**options):
    given = {"input": b'{"text": "x"}', **options}
    return Wish(namespace="acme", instance="summarizer", requested_by="ada", request_id="r", **given)


async def dead(world, text="x"):
    answer = await world.request(wish(input=json.dumps({"text": text}).encode(), labels={"a": "b"}))
    held, hand_in = await world.claim()
    await hand_in(finished=(wire.Finish(run=held.run, fence=held.fence, outcome="failed"),))
    return await world.runs.get("acme", answer.run.id)


BOB = Replay(requested_by="bob", request_id="r2")


async def test_a_replay_is_a_new_run_that_names_the_old(world):
    """Input, labels and priority are the old run's, who asks is new; the old run names it and stays as it is."""
    old = await dead(world)

    answer = await replay_run(world.request, old, BOB)

    new = await world.runs.get("acme", answer.run.id)
    assert (new.replay_of, new.input, new.labels, new.requested_by) == (old.id, old.input, {"a": "b"}, "bob")
    assert (await world.runs.get("acme", old.id)) == replace(old, replayed_by=new.id)
    assert [(line.actor, line.action) for line in world.record.audit][-1] == ("bob", "run.replay")


async def test_a_replay_takes_an_edited_input_if_it_fits(world):
    """The current revision judges it."""
    old = await dead(world)

    answer = await replay_run(world.request, old, replace(BOB, input=b'{"text": "y"}'))
    with pytest.raises(Invalid):
        await replay_run(world.request, old, replace(BOB, input=b'{"text": 1}'))

    assert (await world.runs.get("acme", answer.run.id)).input == b'{"text": "y"}'


async def test_the_same_key_replays_once(world):
    """A repeat finds the same new run; another input under the key is refused."""
    old = await dead(world)
    keyed = replace(BOB, idempotency_key="k")

    first, second = [await replay_run(world.request, old, keyed) for _ in range(2)]
    with pytest.raises(Conflict):
        await replay_run(world.request, old, replace(keyed, input=b'{"text": "y"}'))

    assert (second.repeated, second.run.id) == (True, first.run.id)


async def test_a_run_that_is_not_over_cannot_be_replayed(world):
    """It would run twice."""
    running = (await world.accept()).run
    with pytest.raises(Conflict) as caught:
        await replay_run(world.request, running, BOB)
    assert caught.value.reason is Reason.RUN_NOT_FINISHED


async def test_dead_runs_are_replayed_page_by_page(world):
    """Each once, however often a page is repeated under its key; a refused one stops no other."""
    old = [await dead(world, str(n)) for n in range(5)]
    await republish(world, "d" * 16, inputSchema={"properties": {"text": {"enum": list("01234")[1:]}}})
    wanted, how = RunFilter(namespace="acme", limit=2), replace(BOB, idempotency_key="k")

    counted = await replay_runs(world.request, world.runs, wanted, how, dry_run=True)
    pages, cursor = [], None
    for _ in range(3):
        page = await replay_runs(world.request, world.runs, replace(wanted, before=cursor), how)
        await replay_runs(world.request, world.runs, replace(wanted, before=cursor), how)
        pages.append(page)
        cursor = page.next

    assert (counted.matched, counted.replayed) == (2, 0)
    assert [(page.matched, page.replayed) for page in pages] == [(2, 2), (2, 2), (1, 0)]
    assert [(one.run, one.reason) for one in pages[2].refusals] == [(old[0].id, Reason.INPUT_INVALID)]
    assert {row.request.replay_of for row in world.record.rows.values()} - {None} == {r.id for r in old[1:]}
    assert len(world.record.rows) == 9


async def test_only_what_came_to_nothing_is_replayed_together(world):
    """A slip of a filter must not repeat all successes."""
    with pytest.raises(Invalid):
        await replay_runs(
            world.request,
            world.runs,
            RunFilter(namespace="acme", states=frozenset({RunState.SUCCEEDED})),
            BOB,
        )
