"""What a worker has to hand in."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.worker import raw

from everesthood.apis.wire import Finish, LogLine, StepRecord
from everesthood.domain.errors import StepFailed
from everesthood.usecases.outbox import MAX_FINISHES, Batch, Note, Outbox


def record(name: str, state: str = "succeeded", size: int = 0) -> StepRecord:
    return StepRecord(name=name, state=state, output=raw("x" * size))  # type: ignore[arg-type]


def finish(run: str = "r", *steps: StepRecord, size: int = 0) -> Finish:
    return Finish(run=run, fence=1, outcome="succeeded", steps=steps, output=raw("x" * size))


def line(text: str) -> LogLine:
    return LogLine(run="r", fence=1, at=0.0, level="info", message=text)


def test_checkpoints_that_still_wait_go_along_with_the_finish() -> None:
    """A run that ends before its checkpoints left hands them in with its end, in order."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a")))
    outbox.note("r", 1, Note(record=record("b")))
    outbox.finish(finish())

    batch = outbox.take()

    assert [s.name for s in batch.finishes[0].steps] == ["a", "b"]
    assert batch.checkpoints == ()
    assert not outbox.is_urgent


def test_the_latest_record_of_a_name_counts() -> None:
    """A name is never twice in one checkpoint."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a", "started")))
    outbox.note("r", 1, Note(record=record("a")))

    assert [s.state for s in outbox.take().checkpoints[0].steps] == ["succeeded"]


def test_what_did_not_arrive_is_handed_in_again_first() -> None:
    """After a failed call, the same things lead the next one."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a")))
    outbox.finish(finish("q"))
    outbox.log(line("one"))
    batch = outbox.take()
    outbox.note("r", 1, Note(record=record("b")))
    outbox.finish(finish("p"))
    outbox.log(line("two"))
    outbox.give_back(batch)

    again = outbox.take()

    assert [s.name for s in again.checkpoints[0].steps] == ["a", "b"]
    assert [f.run for f in again.finishes] == ["q", "p"]
    assert [one.message for one in again.lines] == ["one", "two"]


def test_a_checkpoint_that_did_not_arrive_goes_before_the_finish_that_came_after() -> None:
    """Nothing of a run travels after its end, and no name twice."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a")))
    outbox.note("r", 1, Note(record=record("usage")))
    batch = outbox.take()
    outbox.note("r", 1, Note(record=record("usage")))
    outbox.finish(finish("r", record("b")))
    outbox.give_back(batch)

    again = outbox.take()

    assert [s.name for s in again.checkpoints[0].steps] == ["a"]
    assert [s.name for s in again.finishes[0].steps] == ["usage", "b"]


def test_heavy_checkpoints_go_in_calls_of_their_own_before_the_finish() -> None:
    """A run with many large outputs is handed in piece by piece, its end last."""
    outbox = Outbox()
    for n in range(30):
        outbox.note("r", 1, Note(record=record(str(n), size=250_000)))
    outbox.finish(finish("r"))
    calls = []
    while outbox.is_urgent:
        calls.append(outbox.take())

    assert all(
        sum(len(bytes(s.output)) for c in call.checkpoints for s in c.steps) < 2_500_000 for call in calls
    )
    assert [len(call.finishes) for call in calls] == [0] * (len(calls) - 1) + [1]
    assert [s.name for call in calls for c in call.checkpoints for s in c.steps] == [
        str(n) for n in range(30)
    ]


def test_a_checkpoint_is_not_given_back_twice() -> None:
    """What is superseded by the finish is dropped, and nothing empty is left."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("usage")))
    batch = outbox.take()
    outbox.finish(finish("r", record("usage")))
    outbox.give_back(batch)

    assert outbox.take().checkpoints == ()


def test_one_call_is_bounded() -> None:
    """A call carries at most 200 finishes and about 2 MiB, but never nothing."""
    many, heavy = Outbox(), Outbox()
    for n in range(MAX_FINISHES + 50):
        many.finish(finish(str(n)))
    for n in range(20):
        heavy.finish(finish(str(n), size=250_000))

    assert len(many.take().finishes) == MAX_FINISHES
    assert 1 <= len(heavy.take().finishes) < 20


async def test_whoever_waits_is_told_when_it_is_durable_or_lost() -> None:
    """A commit returns once acknowledged, and breaks off when the run is another's."""
    outbox = Outbox()
    loop = asyncio.get_running_loop()
    kept, lost = Note(record=record("a"), durable=loop.create_future()), Note(
        record=record("a"), durable=loop.create_future()
    )  # fmt: skip
    outbox.note("r", 1, kept)
    outbox.note("q", 1, lost)
    outbox.acknowledge(outbox.take(), {"q"})

    assert kept.durable is not None
    assert lost.durable is not None
    assert kept.durable.result() is None
    assert lost.durable.cancelled()


async def test_a_refused_checkpoint_fails_its_step_and_a_refused_finish_its_run() -> None:
    """What the gateway will never take ends with a reason instead of being sent for ever."""
    outbox = Outbox()
    note = Note(record=record("a"), durable=asyncio.get_running_loop().create_future())
    outbox.note("r", 1, note)
    outbox.refuse(outbox.take_one(), "too odd")
    outbox.finish(finish("q"))
    outbox.refuse(outbox.take_one(), "too odd")
    replacement = outbox.take_one()
    outbox.refuse(replacement, "still too odd")

    assert note.durable is not None
    with pytest.raises(StepFailed, match="too odd"):
        await note.durable
    assert [(f.outcome, f.reason) for f in replacement.finishes] == [("failed", "Internal")]
    assert not outbox.is_urgent


def test_one_thing_can_be_taken_at_a_time() -> None:
    """To find what the gateway refuses, things go one by one."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a")))
    outbox.finish(finish("q"))
    outbox.log(line("one"))

    taken = [outbox.take_one() for _ in range(4)]

    assert [batch.is_single for batch in taken] == [True, True, True, False]
    assert not taken[3]


async def test_dropping_a_run_drops_its_checkpoints() -> None:
    """What a lost attempt wrote is not sent."""
    outbox = Outbox()
    outbox.note("r", 1, Note(record=record("a"), durable=asyncio.get_running_loop().create_future()))
    outbox.drop("r", 1)

    assert not outbox.is_urgent


@given(st.lists(st.sampled_from(["note", "finish", "take", "fail", "arrive"]), max_size=40))
def test_nothing_is_lost_or_doubled(actions: list[str]) -> None:
    """Whatever order things are added in and calls fail in, each thing arrives exactly once."""
    outbox, arrived, sent = Outbox(), [], []
    batch: Batch | None = None
    count = 0
    for action in actions:
        if action in {"note", "finish"}:
            count += 1
            sent.append(str(count))
            if action == "note":
                outbox.note("open", 1, Note(record=record(str(count))))
            else:
                outbox.finish(finish(str(count)))
        elif action == "take" and batch is None:
            batch = outbox.take()
        elif action == "fail" and batch is not None:
            outbox.give_back(batch)
            batch = None
        elif action == "arrive" and batch is not None:
            arrived += names(batch)
            batch = None
    if batch is not None:
        outbox.give_back(batch)
    arrived += names(outbox.take())

    assert sorted(arrived) == sorted(sent)


def names(batch: Batch) -> list[str]:
    notes = [step.name for checkpoint in batch.checkpoints for step in checkpoint.steps]
    return notes + [one.run for one in batch.finishes]
