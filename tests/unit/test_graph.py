"""The order in which an agent's steps are done."""

from hypothesis import given
from hypothesis import strategies as st

from everesthood.apis.wire import StepRecord
from everesthood.domain import graph
from everesthood.domain.steps import HttpStep, Step, TransformStep

VALUE = TransformStep(value="1")


def node(name: str, *needs: str) -> Step:
    return Step(name=name, needs=needs, transform=VALUE)


def paying(name: str) -> Step:
    return Step(name=name, http=HttpStep(url="https://x", method="POST"))


@st.composite
def graphs(draw: st.DrawFn) -> list[Step]:
    count = draw(st.integers(1, 8))
    steps = [
        node(f"s{n}", *sorted(draw(st.sets(st.sampled_from([f"s{m}" for m in range(n)]))) if n else ()))
        for n in range(count)
    ]
    return draw(st.permutations(steps))


@given(graphs(), st.data())
def test_every_step_is_done_once_and_after_what_it_needs(steps: list[Step], data: st.DataObject) -> None:
    """Whatever the graph and whichever step ends first, each step starts once, after its needs."""
    done: set[str] = set()
    under_way: list[Step] = []
    started: list[str] = []

    while True:
        for step in graph.ready(steps, done, {s.name for s in under_way}):
            assert set(step.needs) <= done
            started.append(step.name)
            under_way.append(step)
        if not under_way:
            break
        ended = data.draw(st.sampled_from(under_way))
        under_way.remove(ended)
        done.add(ended.name)

    assert sorted(started) == sorted(s.name for s in steps)


def test_independent_steps_are_ready_together() -> None:
    """Steps that need nothing of each other start side by side, in the order they are written."""
    steps = [node("c", "a", "b"), node("b"), node("a")]

    assert [s.name for s in graph.ready(steps, set(), set())] == ["b", "a"]
    assert [s.name for s in graph.ready(steps, {"a", "b"}, set())] == ["c"]


def test_a_skipped_step_is_done() -> None:
    """What needs a skipped step runs."""
    records = {
        "a": StepRecord(name="a", state="skipped"),
        "b": StepRecord(name="b", state="succeeded"),
        "c": StepRecord(name="c", state="started"),
        "d": StepRecord(name="d", state="failed"),
    }

    assert graph.done(records) == {"a", "b"}


def test_a_started_step_is_in_doubt_only_where_a_repeat_may_do_harm() -> None:
    """A resumed run stops at a payment that was under way, and repeats a reading."""
    steps = [node("read"), paying("pay")]

    assert graph.in_doubt(steps, {"read": StepRecord(name="read", state="started")}) is None
    assert graph.in_doubt(steps, {"pay": StepRecord(name="pay", state="started")}) is steps[1]
    assert graph.in_doubt(steps, {"pay": StepRecord(name="pay", state="succeeded")}) is None


def test_a_failure_of_an_earlier_attempt_is_found() -> None:
    """A step that failed for good before its worker could say so stays failed."""
    record = StepRecord(name="b", state="failed", message="no")

    assert graph.failed([node("a"), node("b")], {"b": record}) is record
    assert graph.failed([node("a")], {}) is None


def test_outputs_hold_only_what_is_done() -> None:
    """Expressions see the outputs of finished steps, null for a skipped one."""
    steps = [node("a"), node("b"), node("c")]

    assert graph.outputs(steps, {"a": 1, "b": None, "a/piece": 2}) == {"a": 1, "b": None}
