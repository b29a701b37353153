"""Large outputs stay beside the row: a claim carries a bounded part of them, the holder fetches the rest."""

import msgspec
import pytest
from tests.support.record import LEASE_SECONDS, Harness, seat, step

from everesthood.apis.wire import OutputsRequest
from everesthood.domain.steps import CLAIM_OUTPUT_BYTES, MAX_OUTPUT_BYTES, PAGE_OUTPUT_BYTES

pytestmark = pytest.mark.contract

MIB = "x" * (MAX_OUTPUT_BYTES - 2)


async def resumed(record: Harness, *outputs: object):
    """Return the second assignment of a run whose first attempt wrote these outputs and died."""
    await record.accept()
    (held,) = await record.claim()
    for n, output in enumerate(outputs):
        await record.checkpoint(held, step(f"s{n}", output=output))
    await record.age(LEASE_SECONDS + 1)
    await record.clock.rescue()
    (again,) = await record.claim()
    return again


async def test_a_resumed_run_of_many_large_checkpoints_is_claimed_small(published: Harness):
    """A hundred checkpoints of 1 MiB each are in no claim; each can be fetched, in bounded pages."""
    again = await resumed(published, *[MIB] * 100)
    names = [found.name for found in again.steps]
    assert len(msgspec.json.encode(again)) < CLAIM_OUTPUT_BYTES + 100 * 200
    assert names == [f"s{n}" for n in range(100)]
    assert all(found.is_held_back for found in again.steps)

    fetched: dict[str, int] = {}
    while len(fetched) < len(names):
        left = tuple(name for name in names if name not in fetched)
        page = await published.work.outputs(
            seat(), OutputsRequest(run=again.run, fence=again.fence, steps=left)
        )
        sizes = {found.step: len(bytes(found.output)) for found in page.outputs}
        assert 0 < sum(sizes.values()) <= PAGE_OUTPUT_BYTES
        fetched |= sizes

    assert set(fetched.values()) == {MAX_OUTPUT_BYTES}


async def test_small_outputs_come_along_and_what_follows_a_large_one_is_fetched(published: Harness):
    """Up to 64 KiB need no second call; the order of the steps says which those are."""
    again = await resumed(published, "small", "y" * CLAIM_OUTPUT_BYTES, "late")

    assert [found.is_held_back for found in again.steps] == [False, True, True]
    assert bytes(again.steps[0].output) == b'"small"'
    page = await published.work.outputs(
        seat(), OutputsRequest(run=again.run, fence=again.fence, steps=("s1", "s2", "unknown"))
    )
    assert [(found.step, len(bytes(found.output))) for found in page.outputs] == [
        ("s1", CLAIM_OUTPUT_BYTES + 2),
        ("s2", 6),
    ]


async def test_who_does_not_hold_the_run_gets_no_output(published: Harness):
    """Neither another instance nor an earlier attempt sees what a run came to."""
    again = await resumed(published, MIB)

    for who, fence in ((seat(uid="uid-b"), again.fence), (seat(), again.fence - 1)):
        page = await published.work.outputs(who, OutputsRequest(run=again.run, fence=fence, steps=("s0",)))
        assert page.outputs == ()
