"""How runs are found: by what they are, when they came, and what is in them."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.support.record import INSTANCE, Harness, finish, seat

from everesthood.apis.wire import WorkRequest
from everesthood.domain.run_ids import uuid7
from everesthood.domain.runs import Dedupe, RunId, RunState
from everesthood.usecases.ports.record import RunFilter

pytestmark = pytest.mark.contract
NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
ALL = RunFilter(namespace="acme")


def newest(*ids: str) -> list[str]:
    return sorted(ids, reverse=True)


async def found(record: Harness, **wanted: object) -> list[str]:
    """Return all ids, however many pages they come on."""
    ids: list[str] = []
    cursor: str | None = None
    for _ in itertools.count():
        page = await record.runs.list(replace(ALL, before=cursor, limit=2, **wanted))  # type: ignore[arg-type]
        ids += [run.id for run in page.runs]
        cursor = page.next
        if cursor is None:
            assert ids == sorted(ids, reverse=True)
            return ids
    raise AssertionError


async def test_labels_find_their_runs(published: Harness):
    """All labels of the filter must fit, in name and value; other namespaces are not looked at."""
    a = (await published.accept(labels={"team": "sales", "tier": "1"})).run
    b = (await published.accept(labels={"team": "sales"})).run
    c = (await published.accept(labels={"team": "ops"})).run
    await published.accept()

    assert await found(published, labels={"team": "sales"}) == newest(a, b)
    assert await found(published, labels={"team": "sales", "tier": "1"}) == [a]
    assert await found(published, labels={"team": "ops"}) == [c]
    assert await found(published, labels={"team": "sales"}, namespace="other") == []
    assert await found(published, labels={"tier": "2"}) == []


async def test_a_replaced_request_is_found_by_its_last_labels(published: Harness):
    """A debounced run has the labels of the last request only."""
    dedupe = Dedupe(key="k", mode="debounce", seconds=60)
    first = await published.accept(dedupe=dedupe, labels={"a": "1", "same": "x"})
    await published.accept(dedupe=dedupe, labels={"a": "2", "same": "x"})

    assert await found(published, labels={"a": "1"}) == []
    assert await found(published, labels={"a": "2", "same": "x"}) == [first.run]
    await published.accept(dedupe=dedupe)
    assert await found(published, labels={"same": "x"}) == []


async def test_the_range_is_from_and_before(published: Harness):
    """The first moment is inside, the last is not; sub-millisecond ends are rounded up."""
    moments = [NOON + timedelta(milliseconds=n) for n in range(4)]
    ids = [RunId(str(uuid7(now=at, randomness=b"\xff" * 10))) for at in moments]
    for run in ids:
        await published.accept(id=run)

    assert await found(published, created_from=moments[1], created_to=moments[3]) == [ids[2], ids[1]]
    assert await found(published, created_from=moments[3]) == [ids[3]]
    assert await found(published, created_to=moments[1]) == [ids[0]]
    later = moments[1] + timedelta(microseconds=1)
    assert await found(published, created_from=later, created_to=moments[3]) == [ids[2]]


@pytest.mark.parametrize("text", ["NEEDLE", "needle", 'k": "n', "100%_\\\\"])
async def test_text_is_found_in_inputs_and_outputs(published: Harness, text: str):
    """As it is written in the JSON, in whatever case, signs of patterns included."""
    value = b'{"k": "Needle 100%_\\\\"}'
    by_input = (await published.accept(input=value)).run
    await published.accept(input=b'{"k": "100xx"}')
    by_output = (await published.accept(input=b"1")).run
    held = {one.run: one for one in await published.claim()}
    await published.hand_in(finish(held[by_output], output=msgspec.Raw(value)))

    assert await found(published, text=text) == newest(by_input, by_output)
    assert await found(published, text=text, states=frozenset({RunState.SUCCEEDED})) == [by_output]


async def test_template_and_revision_find_their_runs(published: Harness):
    """The template from the acceptance on, the revision from the first start."""
    await published.registry.publish_instance(
        replace(INSTANCE, uid="uid-b", name="other", template="poem", current_revision="r9")
    )
    a = (await published.accept()).run
    b = (await published.accept(instance_uid="uid-b", instance="other")).run
    await published.work.work(seat("r9", uid="uid-b"), WorkRequest(want=1))

    assert await found(published, template="greeting") == [a]
    assert await found(published, template="poem") == [b]
    assert await found(published, revision="r9") == [b]
    assert await found(published, revision="r1") == []


@pytest.mark.parametrize("state", list(RunState))
async def test_every_state_is_found_by_its_walk(published: Harness, state: RunState):
    """Alone, with others, and with an instance."""
    for _ in range(8):
        await published.accept()
    held = await published.claim(7)
    ends = ("succeeded", "failed", "cancelled", "ambiguous")
    await published.hand_in(
        *(finish(one, end) for one, end in zip(held, ends, strict=False)),
        finish(held[4], "failed", reason="RunTimedOut"),
    )
    everything = await published.listed(replace(ALL, limit=100))
    mine = [run.id for run in everything if run.state is state]

    assert await found(published, states=frozenset({state})) == mine
    assert await found(published, states=frozenset({state}), instance="greeter") == mine
    assert await found(published, states=frozenset({state}), instance="other") == []
    both = {state, RunState.QUEUED, RunState.DEAD}
    assert await found(published, states=frozenset(both)) == [r.id for r in everything if r.state in both]
