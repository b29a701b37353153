"""forEach steps: items side by side, checkpoints of their own, and what is left when a worker dies."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.worker import (
    FakeGateway,
    Figures,
    Journal,
    Serving,
    Way,
    agent,
    assignment,
    doing,
    execute,
    executing,
    output_of,
    raw,
    step,
)

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Finish, StepRecord
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.ports.worker import Answer, Call, Scope

PAY: dict[str, Any] = {"http": {"url": "https://bank.example/{{ item }}", "method": "POST"}}
READ: dict[str, Any] = {"http": {"url": "https://shop.example/{{ item }}"}}


def loop(*steps: dict[str, Any], items: str = "input", parallel: int = 5, **fields: Any) -> dict[str, Any]:
    inner = steps or (step("inner", value="item"),)
    return step("loop", forEach={"items": items, "maxParallel": parallel, "steps": inner}, **fields)


class Acts:
    """A runner that does a step as a test's function says, by the inner name; else as `doing()` does."""

    def __init__(self, **acts: Any) -> None:
        self.acts = acts
        self.done: list[str] = []
        self.running = 0
        self.most_running = 0
        self._plain = doing().runner

    async def run(self, scope: Scope) -> object:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            act = self.acts.get(scope.step.name.rpartition(".")[2])
            value = await (self._plain.run(scope) if act is None else act(scope))
            self.done.append(scope.step.name)
            return value
        finally:
            self.running -= 1


def by(runner: Acts, figures: Figures | None = None) -> Doing:
    plain = doing(figures=figures)
    return Doing(runner=runner, expressions=plain.expressions, figures=plain.figures, sleep=plain.sleep)


async def run(
    what: dict[str, Any],
    items: object,
    *more: dict[str, Any],
    runner: Acts | None = None,
    journal: Journal | None = None,
    past: tuple[StepRecord, ...] = (),
    deadline: float = 60.0,
    **spec: Any,
) -> Finish:
    given = assignment(value=items, steps=past, deadline=deadline, attempt=2 if past else 1)
    return await execute(agent(what, *more, **spec), given, journal=journal, by=by(runner or Acts()))


async def test_the_output_is_each_items_last_output_in_order() -> None:
    """Whichever item ends first, outputs stand in the order of the items."""

    async def late_first(scope: Scope) -> object:
        await asyncio.sleep(0.02 if scope.variables["index"] == 0 else 0)
        return [scope.variables["index"], scope.variables["item"]]

    runner = Acts(inner=late_first)
    finish = await run(loop(), ["a", "b", "c"], runner=runner)

    assert output_of(finish) == [[0, "a"], [1, "b"], [2, "c"]]
    assert runner.done[-1] == "loop[0].inner"


async def test_inner_steps_see_their_item_and_those_before_them() -> None:
    """`item`, `index`, earlier outer outputs and the same item's inner outputs are in scope, in CEL and texts."""
    way = Way(lambda call: Answer(status=200, headers={}, body=call.url.encode()))
    inner = [
        step("double", value="item.n * 2 + index"),
        step(
            "fetch",
            "double",
            http={"url": "https://shop.example/{{ item.n }}/{{ index }}/{{ steps.double }}"},
        ),
        step("both", "fetch", value="[steps.base, steps.double, steps.fetch.body, config.c]"),
    ]
    what = agent(
        step("base", value="10"),
        {**loop(*inner, items="input.list"), "needs": ["base"]},
        step("end", "loop", value="steps.loop"),
        config={"c": "!"},
    )
    finish = await execute(what, assignment(value={"list": [{"n": 1}, {"n": 2}]}), by=doing(way))

    assert output_of(finish) == [
        [10, 2, "https://shop.example/1/0/2", "!"],
        [10, 5, "https://shop.example/2/1/5", "!"],
    ]


@pytest.mark.parametrize("parallel", [1, 3, 100])
async def test_no_more_items_at_once_than_max_parallel(parallel: int) -> None:
    """maxParallel bounds the items under way; each free place is taken at once."""

    async def slow(_: Scope) -> object:
        await asyncio.sleep(0.001)
        return 1

    runner = Acts(inner=slow)
    finish = await run(loop(parallel=parallel), list(range(20)), runner=runner)

    assert finish.outcome == "succeeded"
    assert runner.most_running == min(parallel, 20)


async def test_no_items_give_an_empty_list() -> None:
    """A loop over nothing is done."""
    assert output_of(await run(loop(), [])) == []


async def test_a_skipped_loop_is_null_and_a_skipped_inner_step_too() -> None:
    """`when` holds for the loop and for each inner step by itself."""
    skipped = await run(loop(when="false"), [1])
    some = await run(loop(step("inner", value="item", when="item > 1")), [1, 2])

    assert output_of(skipped) is None
    assert output_of(some) == [None, 2]


async def test_each_inner_step_is_a_checkpoint_after_the_items() -> None:
    """The items are written first, then each inner step by item and name, then the loop."""
    journal = Journal()
    figures = Figures()
    given = assignment(value=[7, 8])
    await execute(agent(loop(parallel=1)), given, journal=journal, by=doing(figures=figures))

    assert journal.history == [
        ("loop/$items", "succeeded"), ("loop[0].inner", "succeeded"), ("loop[1].inner", "succeeded"),
        ("loop", "succeeded"),
    ]  # fmt: skip
    assert journal.records["loop/$items"].output == raw([7, 8])
    assert dict(figures.steps) == {("transform", "succeeded"): 2, ("forEach", "succeeded"): 1}


class Killed(Exception):
    """The worker is gone."""


@pytest.mark.parametrize("dies_after", range(1, 9))
async def test_wherever_the_worker_dies_the_next_one_repeats_nothing(dies_after: int) -> None:
    """After each durable write the worker may die; the next attempt does only what is left."""
    inner = [step("a", value="item"), step("b", "a", value="steps.a + 1")]
    record: dict[str, StepRecord] = {}
    first, second = Acts(), Acts()

    class Mortal(Journal):
        def note(self, written: StepRecord) -> None:
            if len(record) >= dies_after:
                raise Killed
            record[written.name] = written

    with pytest.raises(Killed):
        await run(loop(*inner, parallel=2), [1, 2, 3, 4], runner=first, journal=Mortal())
    finish = await run(loop(*inner), [1, 2, 3, 4], runner=second, past=tuple(record.values()))

    kept = {name for name in record if name.startswith("loop[")}
    assert output_of(finish) == [2, 3, 4, 5]
    assert kept | set(second.done) == {f"loop[{n}].{s}" for n in range(4) for s in "ab"}
    assert not kept & set(second.done)


async def test_a_resumed_run_sees_the_same_items() -> None:
    """Items are computed once: what the expression would say by now does not matter."""
    past = (StepRecord(name="loop/$items", state="succeeded", output=raw(["kept"])),)

    assert output_of(await run(loop(items="input.other"), {"other": [1, 2]}, past=past)) == ["kept"]


@pytest.mark.parametrize(
    ("items", "reason", "said"),
    [
        ({"a": 1}, Reason.STEP_FAILED, "items: the value is not a list"),
        (None, Reason.STEP_FAILED, "items: the value is not a list"),
        (list(range(1001)), Reason.OUTPUT_TOO_LARGE, "items: there are 1001, the most is 1000"),
        ([0] * 10_000, Reason.OUTPUT_TOO_LARGE, "items: there are 10000, the most is 1000"),
        (["x" * 2000] * 600, Reason.OUTPUT_TOO_LARGE, "the list of items is too large: "),
    ],
)
async def test_items_that_cannot_be_looped_over_fail_the_step(items: object, reason: str, said: str) -> None:
    """One sentence, and nothing starts."""
    runner = Acts()
    finish = await run(loop(), items, runner=runner)

    assert (finish.outcome, finish.reason, runner.done) == ("failed", reason, [])
    assert finish.message.startswith(f"steps.loop: {said}")


async def test_items_that_cannot_be_computed_fail_the_step() -> None:
    """An error of the expression names the field."""
    finish = await run(loop(items="input.list.map(i, i.missing)"), {"list": [{}]})

    assert finish.message.startswith("steps.loop: items: ")


async def test_a_thousand_items_are_done() -> None:
    """The cap itself is reached, in order."""
    finish = await run(loop(parallel=100), list(range(1000)))

    assert output_of(finish) == list(range(1000))


async def test_a_failing_item_fails_the_loop_and_starts_nothing_more() -> None:
    """The message names item and step, and what is left is left."""

    async def fail(scope: Scope) -> object:
        if scope.variables["index"] == 1:
            raise StepFailed("no such thing", Reason.HOST_REFUSED)
        return 1

    runner, journal = Acts(inner=fail), Journal()
    finish = await run(loop(parallel=1), [1, 2, 3], runner=runner, journal=journal)

    assert (finish.outcome, finish.reason) == ("failed", Reason.HOST_REFUSED)
    assert finish.message == "steps.loop: item 1, step inner: no such thing"
    assert runner.done == ["loop[0].inner"]
    assert journal.records["loop[1].inner"].state == "failed"


async def test_a_failure_of_an_earlier_attempt_stands() -> None:
    """An item that failed for good fails the next attempt at once."""
    past = (
        StepRecord(name="loop/$items", state="succeeded", output=raw([1, 2])),
        StepRecord(name="loop[1].inner", state="failed", reason="HostRefused", message="no"),
    )
    runner = Acts()
    finish = await run(loop(), [1, 2], runner=runner, past=past)

    assert (finish.reason, runner.done) == ("HostRefused", [])
    assert finish.message == "steps.loop: item 1, step inner: no"


async def test_retry_and_timeouts_of_inner_steps_hold() -> None:
    """A transient failure of one item is tried again; a try that takes too long is stopped."""
    busy = {0: 2, 1: 0}

    async def flaky(scope: Scope) -> object:
        index: Any = scope.variables["index"]
        busy[index] -= 1
        if busy[index] >= 0:
            raise StepFailed("busy", transient=True)
        return index

    async def hang(_: Scope) -> object:
        await asyncio.Event().wait()
        return None

    journal = Journal()
    tried = loop(step("inner", value="1", retry={"maxAttempts": 3}))
    first = await run(tried, [1, 2], runner=Acts(inner=flaky), journal=journal)
    second = await run(loop(step("inner", value="1", timeoutSeconds=1)), [1], runner=Acts(inner=hang))

    assert output_of(first) == [0, 1]
    assert journal.records["loop[0].inner"].tries == 3
    assert (second.reason, second.message) == (
        Reason.STEP_TIMED_OUT, "steps.loop: item 0, step inner: it took longer than its 1 s",
    )  # fmt: skip


async def test_a_payment_of_an_item_is_announced_and_keyed_by_its_item() -> None:
    """Each item's POST is written as started first and has an Idempotency-Key of its own, the same on resume."""
    way, again = Way(), Way()
    journal = Journal()
    await execute(agent(loop(step("pay", **PAY))), assignment(value=[1, 2]), journal=journal, by=doing(way))
    await execute(agent(loop(step("pay", **PAY))), assignment(value=[1, 2]), by=doing(again))

    def keys(calls: list[Call]) -> set[str]:
        return {dict(call.headers)["Idempotency-Key"] for call in calls}

    assert len(keys(way.calls)) == 2
    assert keys(way.calls) == keys(again.calls)
    assert journal.history[:3] == [
        ("loop/$items", "succeeded"), ("loop[0].pay", "started"), ("loop[1].pay", "started"),
    ]  # fmt: skip


async def test_a_payment_under_way_when_its_worker_died_is_not_repeated() -> None:
    """A resumed loop that finds an item's payment started ends as ambiguous, and pays nothing."""
    past = (
        StepRecord(name="loop/$items", state="succeeded", output=raw([1, 2, 3])),
        StepRecord(name="loop[2].pay", state="started"),
    )
    runner = Acts()
    finish = await run(loop(step("pay", **PAY)), [1, 2, 3], runner=runner, past=past)

    assert (finish.outcome, finish.reason, runner.done) == ("ambiguous", Reason.OUTCOME_UNKNOWN, [])
    assert finish.message.startswith("steps.loop: item 2, step pay: ")


async def test_an_unknown_outcome_of_one_item_is_the_runs() -> None:
    """A POST that broke off may have taken effect: a person decides."""

    async def broken(_: Scope) -> object:
        raise OutcomeUnknown("it broke off", transient=True)

    journal = Journal()
    finish = await run(loop(step("pay", **PAY)), [1], runner=Acts(pay=broken), journal=journal)

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert finish.message.startswith("steps.loop: item 0, step pay: it broke off; whether")
    assert journal.records["loop"].state == "started"


@pytest.mark.parametrize("fails", ["an item", "another step"])
async def test_payments_under_way_come_to_an_end_when_something_fails(fails: str) -> None:
    """A payment in flight is waited for, a read is dropped, and no further item is begun."""
    begun, release = asyncio.Event(), asyncio.Event()

    async def pay(scope: Scope) -> object:
        if scope.variables["index"] == 0:
            begun.set()
            await release.wait()
            return "paid"
        await begun.wait()
        if fails == "another step":
            await asyncio.Event().wait()
        asyncio.get_running_loop().call_later(0.02, release.set)
        raise StepFailed("no")

    async def bad(_: Scope) -> object:
        await begun.wait()
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_later(0.02, release.set)
        raise StepFailed("no")

    inner = step("pay", **PAY)
    if fails == "another step":
        inner = step("pay", http={"url": "https://x.example/", "method": "POST"}, when="index == 0")
    journal, runner = Journal(), Acts(pay=pay, bad=bad)
    more = [step("bad")] if fails == "another step" else []
    read = [step("read", "pay", value="1")]
    finish = await run(loop(inner, *read, parallel=2), [1, 2, 3], *more, runner=runner, journal=journal)

    assert finish.outcome == "failed"
    assert journal.records["loop[0].pay"].state == "succeeded"
    assert not any(name.startswith("loop[0].read") for name in journal.records)
    assert "loop[2].pay" not in [name for name in journal.records if journal.records[name].state == "started"]


async def test_a_loop_with_only_reads_is_broken_off_by_another_steps_failure() -> None:
    """Nothing waits for what can be repeated."""
    begun = asyncio.Event()

    async def hang(_: Scope) -> object:
        begun.set()
        await asyncio.Event().wait()
        return None

    async def bad(_: Scope) -> object:
        await begun.wait()
        raise StepFailed("no")

    runner = Acts(read=hang, bad=bad)
    finish = await run(loop(step("read", **READ)), [1, 2], step("bad"), runner=runner)

    assert (finish.outcome, finish.message, runner.running) == ("failed", "steps.bad: no", 0)


async def test_a_loop_out_of_time_ends() -> None:
    """timeoutSeconds of the loop bounds all its items; payments in flight still come to an end."""
    begun = asyncio.Event()

    async def pay(_: Scope) -> object:
        begun.set()
        await asyncio.sleep(1.2)
        return 1

    async def hang(_: Scope) -> object:
        await asyncio.Event().wait()
        return 1

    journal = Journal()
    what = loop(step("pay", **PAY), step("hang", value="1"), timeoutSeconds=1)
    finish = await run(what, [1], runner=Acts(pay=pay, hang=hang), journal=journal)

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_TIMED_OUT)
    assert finish.message == "steps.loop: it took longer than its 1 s"
    assert journal.records["loop[0].pay"].state == "succeeded"


@pytest.mark.parametrize(("inner", "outcome"), [(READ, "failed"), (PAY, "ambiguous")])
async def test_a_run_out_of_time_in_a_loop(inner: dict[str, Any], outcome: str) -> None:
    """Only a payment in flight makes it ambiguous."""

    async def hang(_: Scope) -> object:
        await asyncio.Event().wait()
        return None

    finish = await run(loop(step("call", **inner)), [1], runner=Acts(call=hang), deadline=0.05)

    assert finish.outcome == outcome


async def test_a_broken_off_run_leaves_nothing_running() -> None:
    """A cancelled attempt stops all items."""
    begun = asyncio.Event()

    async def hang(_: Scope) -> object:
        begun.set()
        await asyncio.Event().wait()
        return None

    runner = Acts(inner=hang)
    running = asyncio.create_task(run(loop(), [1, 2, 3], runner=runner))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert runner.running == 0


async def test_outputs_that_are_too_large_together_are_refused() -> None:
    """Neither the list of outputs nor all checkpoints together may outgrow what a resume can carry."""

    async def large(_: Scope) -> object:
        return "x" * 400_000

    listed = await run(loop(), [1, 2, 3], runner=Acts(inner=large))
    steps = [step("large", value="1"), step("inner", "large", value="1")]
    kept = await run(loop(*steps), list(range(100)), runner=Acts(large=large))

    assert (listed.reason, kept.reason) == (Reason.OUTPUT_TOO_LARGE, Reason.OUTPUT_TOO_LARGE)
    assert listed.message.startswith("steps.loop: the output is too large")
    assert kept.message == "steps.loop: the outputs of all its steps together are larger than 8388608 bytes"


async def test_inner_steps_that_cannot_go_on_say_so() -> None:
    """A step that needs what is not there fails the loop instead of hanging it."""
    finish = await run(loop(step("inner", "ghost")), [1])

    assert finish.message == "steps.loop: no step can start, yet item 0 is not done"


async def test_inner_code_keeps_pieces_of_its_own() -> None:
    """A code step inside a loop checkpoints under its item, so that two items never share a piece."""
    journal = Journal()
    code = {"entrypoint": "tests.support.code_agents:plain"}
    finish = await run(loop(step("work", code=code)), [21, 22], journal=journal)

    assert finish.outcome == "succeeded"
    assert {"loop[0].work/double", "loop[1].work/double"} <= journal.records.keys()


async def test_code_inside_a_loop_is_looked_for_when_the_worker_starts() -> None:
    """A worker without it says so by path before it claims anything."""
    what = agent(loop(step("work", code={"entrypoint": "nowhere:main"})))
    with pytest.raises(StepFailed) as failed:
        await doing().runner.prepare(what.spec.steps)  # type: ignore[attr-defined]

    assert failed.value.message.startswith("spec.steps[0].forEach.steps[0].code.entrypoint: ")


async def test_a_worker_that_stops_hands_over_and_the_next_repeats_nothing() -> None:
    """Through the gateway: items done by the first worker are not done by the second."""
    gateway = FakeGateway()
    (name,) = gateway.add(value=list(range(8)))
    reached = asyncio.Event()

    async def stops(scope: Scope) -> object:
        index: Any = scope.variables["index"]
        if index >= 4:
            reached.set()
            await asyncio.Event().wait()
        return index * 10

    async def goes_on(scope: Scope) -> object:
        index: Any = scope.variables["index"]
        return index * 10

    first, second = Acts(inner=stops), Acts(inner=goes_on)
    async with Serving(gateway, executing(agent(loop(parallel=2)), by(first))) as worker:
        await reached.wait()
        await worker.stop(0.01)
    async with Serving(gateway, executing(agent(loop(parallel=2)), by(second))):
        await gateway.until_over()

    finish = gateway.rows[name].finish
    assert finish is not None
    assert msgspec.json.decode(finish.output) == [n * 10 for n in range(8)]
    assert sorted(first.done + second.done) == [f"loop[{n}].inner" for n in range(8)]
