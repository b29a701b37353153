"""One attempt of a run, from its last checkpoint to what is handed in."""

import asyncio
from typing import Any

import pytest
from tests.support.worker import LANGUAGES, Figures, Journal, agent, assignment, execute, output_of, raw, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Assignment, Finish, StepRecord
from everesthood.domain.errors import EveresthoodError, OutcomeUnknown, StepFailed
from everesthood.usecases.execute_run import execute_run
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Scope

PAY: dict[str, Any] = {"http": {"url": "https://bank.example/pay", "method": "POST"}}


class Runner:
    """Does a step as a test's function says; without one, its output is its name."""

    def __init__(self, **acts: Any) -> None:
        self.acts = acts
        self.done: list[str] = []
        self.running = 0
        self.most_running = 0

    async def run(self, scope: Scope) -> object:
        self.done.append(scope.step.name)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            act = self.acts.get(scope.step.name)
            return scope.step.name if act is None else await act(scope)
        finally:
            self.running -= 1


def by(runner: Runner, *, pauses: list[float] | None = None, figures: Figures | None = None) -> Doing:
    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    return Doing(runner=runner, expressions=Expressions(LANGUAGES), figures=figures or Figures(), sleep=sleep)


def failing(*failures: EveresthoodError | None) -> Any:
    left = list(failures)

    async def act(_: Scope) -> object:
        failure = left.pop(0)
        if failure is not None:
            raise failure
        return "ok"

    return act


async def test_a_run_comes_to_the_output_of_its_last_step() -> None:
    """Without `output`, the run's output is the last step's."""
    runner = Runner()

    finish = await execute(agent(step("a"), step("b", "a")), by=by(runner))

    assert (finish.outcome, output_of(finish), finish.reason) == ("succeeded", "b", "")
    assert runner.done == ["a", "b"]


async def test_a_run_comes_to_its_output_expression() -> None:
    """`output.value` sees the input, the config, the outputs and the run."""
    what = agent(
        step("a"), config={"c": 2}, output={"value": "[input.i, config.c, steps.a, run.id, run.attempt]"}
    )

    finish = await execute(what, assignment(value={"i": 1}, attempt=3), by=by(Runner()))

    assert output_of(finish) == [1, 2, "a", "run-1", 3]


async def test_independent_steps_are_done_side_by_side() -> None:
    """Steps that do not need each other run at the same time."""
    together = asyncio.Barrier(2)

    async def meet(_: Scope) -> object:
        async with asyncio.timeout(5):
            await together.wait()
        return 1

    runner = Runner(a=meet, b=meet)
    finish = await execute(agent(step("a"), step("b"), step("c", "a", "b")), by=by(runner))

    assert finish.outcome == "succeeded"
    assert runner.most_running == 2


async def test_each_finished_step_is_a_checkpoint() -> None:
    """Every step is written when it is over, with its output."""
    journal = Journal()

    await execute(agent(step("a"), step("b", "a")), journal=journal, by=by(Runner()))

    assert journal.history == [("a", "succeeded"), ("b", "succeeded")]
    assert journal.records["a"].output == raw("a")


async def test_a_resumed_run_repeats_nothing() -> None:
    """What an earlier attempt finished is not done again, and its output is there for later steps."""
    runner = Runner()
    past = (
        StepRecord(name="a", state="succeeded", output=raw("kept")),
        StepRecord(name="b", state="skipped"),
    )
    what = agent(step("a"), step("b", "a"), step("c", "b"), output={"value": "[steps.a, steps.b, steps.c]"})

    finish = await execute(what, assignment(steps=past, attempt=2), by=by(runner))

    assert runner.done == ["c"]
    assert output_of(finish) == ["kept", None, "c"]


async def test_a_condition_that_is_false_skips_its_step_only() -> None:
    """`when: false` skips the step; its output is null and what needs it runs."""
    runner, journal = Runner(), Journal()
    what = agent(step("a", when="input.go"), step("b", "a"), output={"value": "[steps.a, steps.b]"})

    finish = await execute(what, assignment(value={"go": False}), journal=journal, by=by(runner))

    assert runner.done == ["b"]
    assert output_of(finish) == [None, "b"]
    assert journal.history[0] == ("a", "skipped")


@pytest.mark.parametrize("when", ["1", "'true'", "input.missing"])
async def test_a_condition_that_is_no_condition_fails_its_step(when: str) -> None:
    """A `when` that is neither true nor false, or cannot be evaluated, fails the run by name."""
    finish = await execute(agent(step("a", when=when)), assignment(value={}), by=by(Runner()))

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_FAILED)
    assert finish.message.startswith("steps.a: ")


async def test_a_failed_step_fails_the_run_by_name() -> None:
    """The run's reason is the step's, its message names the step, and nothing more starts."""
    runner, journal = Runner(a=failing(StepFailed("no such host", Reason.HOST_REFUSED))), Journal()

    finish = await execute(agent(step("a"), step("b", "a")), journal=journal, by=by(runner))

    assert (finish.outcome, finish.reason) == ("failed", Reason.HOST_REFUSED)
    assert finish.message == "steps.a: no such host"
    assert runner.done == ["a"]
    assert journal.records["a"].state == "failed"


async def test_a_failing_step_is_tried_again_as_retry_says() -> None:
    """Transient failures are repeated after a pause, and the log says so."""
    pauses: list[float] = []
    journal = Journal()
    busy = StepFailed("busy", transient=True)
    runner = Runner(a=failing(busy, StepFailed("later", transient=True, retry_after_seconds=9), None))
    what = agent(step("a", retry={"maxAttempts": 3, "initialSeconds": 1, "maxSeconds": 60}))

    finish = await execute(what, journal=journal, by=by(runner, pauses=pauses))

    assert (finish.outcome, journal.records["a"].tries) == ("succeeded", 3)
    assert 0 <= pauses[0] <= 1
    assert 9 <= pauses[1] <= 10
    assert [line[1].split(";")[0] for line in journal.lines] == [
        "try 1 failed: busy", "try 2 failed: later",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("failure", "queue", "said"),
    [
        (StepFailed("busy", transient=True), {"retry": {"maxAttempts": 3}}, (True, None)),
        (StepFailed("busy", transient=True, retry_after_seconds=7), {"retry": {}}, (True, 7)),
        (StepFailed("broken"), {"retry": {}}, (False, None)),
        (StepFailed("busy", transient=True), {}, (False, None)),
    ],
)
async def test_a_failure_that_may_pass_is_said_where_the_agent_wants_to_know(
    failure: StepFailed, queue: dict[str, Any], said: tuple[bool, float | None]
) -> None:
    """The record tries again only what the worker called transient."""
    runner = Runner(a=failing(failure))

    end = await execute(agent(step("a"), queue=queue), journal=Journal(), by=by(runner))

    assert (end.outcome, end.transient, end.retry_after_seconds) == ("failed", *said)


async def test_a_failure_that_stays_outweighs_one_that_may_pass() -> None:
    """Another attempt cannot help where one of two failures would come again."""

    async def busy(_: Scope) -> object:
        raise StepFailed("busy", transient=True)

    async def broken(_: Scope) -> object:
        await asyncio.sleep(0.01)
        raise StepFailed("broken")

    both = agent(step("a", **PAY), step("b", **PAY), queue={"retry": {}})
    end = await execute(both, journal=Journal(), by=by(Runner(a=busy, b=broken)))

    assert (end.outcome, end.transient, end.message) == ("failed", False, "steps.b: broken")


async def test_tries_are_counted() -> None:
    """A step that used all its tries fails with the last failure."""
    journal = Journal()
    busy = StepFailed("busy", transient=True)
    what = agent(step("a", retry={"maxAttempts": 2}))

    finish = await execute(what, journal=journal, by=by(Runner(a=failing(busy, busy, None))))

    assert finish.message == "steps.a: busy"
    assert journal.records["a"].tries == 2


async def test_a_step_that_takes_too_long_is_stopped() -> None:
    """timeoutSeconds bounds one try of a step."""
    never = asyncio.Event()
    stopped: list[str] = []

    async def hang(_: Scope) -> object:
        try:
            await never.wait()
        except asyncio.CancelledError:
            stopped.append("a")
            raise
        return None

    finish = await execute(agent(step("a", timeoutSeconds=1)), by=by(Runner(a=hang)))

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_TIMED_OUT)
    assert finish.message == "steps.a: it took longer than its 1 s"
    assert stopped == ["a"]


async def test_a_timeout_inside_a_step_is_the_steps_own_failure() -> None:
    """A TimeoutError of the author's code is not taken for the step's time limit."""

    async def act(_: Scope) -> object:
        raise TimeoutError

    finish = await execute(agent(step("a")), by=by(Runner(a=act)))

    assert (finish.reason, finish.message) == (
        Reason.STEP_FAILED,
        "steps.a: it gave up waiting (TimeoutError)",
    )


async def test_what_must_not_be_repeated_is_announced_before_it_acts() -> None:
    """A POST is written as started, durably, before the call is made."""
    journal = Journal()
    seen: list[str] = []

    async def act(_: Scope) -> object:
        seen.append(journal.records["pay"].state)
        return "paid"

    finish = await execute(agent(step("pay", **PAY)), journal=journal, by=by(Runner(pay=act)))

    assert seen == ["started"]
    assert journal.history == [("pay", "started"), ("pay", "succeeded")]
    assert finish.outcome == "succeeded"


async def test_nothing_happens_before_the_announcement_is_durable() -> None:
    """While the gateway has not acknowledged `started`, the step does not act."""
    asked, answer = asyncio.Event(), asyncio.Event()

    class Slow(Journal):
        async def commit(self, record: StepRecord) -> None:
            asked.set()
            await answer.wait()
            await super().commit(record)

    runner = Runner()
    running = asyncio.create_task(execute(agent(step("pay", **PAY)), journal=Slow(), by=by(runner)))
    await asked.wait()
    before = list(runner.done)
    answer.set()

    assert (await running).outcome == "succeeded"
    assert (before, runner.done) == ([], ["pay"])


async def test_a_payment_under_way_when_its_worker_died_is_not_repeated() -> None:
    """A resumed run that finds `started` ends as ambiguous, and does nothing."""
    runner = Runner()
    past = (StepRecord(name="pay", state="started"),)

    finish = await execute(agent(step("pay", **PAY)), assignment(steps=past, attempt=2), by=by(runner))

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert finish.message.startswith("steps.pay: ")
    assert runner.done == []


async def test_a_failure_of_an_earlier_attempt_stands() -> None:
    """A step that failed for good is not tried again by the next attempt."""
    past = (StepRecord(name="a", state="failed", reason="HostRefused", message="no"),)

    finish = await execute(agent(step("a")), assignment(steps=past), by=by(Runner()))

    assert (finish.outcome, finish.reason, finish.message) == ("failed", "HostRefused", "steps.a: no")


@pytest.mark.parametrize("kind", ["broken off", "timed out"])
async def test_an_unknown_outcome_stops_the_run_as_ambiguous(kind: str) -> None:
    """A POST that broke off or timed out may have taken effect: a person decides."""
    journal = Journal()

    async def act(_: Scope) -> object:
        if kind == "broken off":
            raise OutcomeUnknown("it broke off", transient=True)
        await asyncio.Event().wait()
        return None

    what = agent(step("pay", timeoutSeconds=1, retry={"maxAttempts": 5}, **PAY))
    finish = await execute(what, journal=journal, by=by(Runner(pay=act)))

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert journal.records["pay"].state == "started"
    assert journal.records["pay"].message


async def test_an_unknown_outcome_of_a_harmless_step_is_a_failure() -> None:
    """A GET that broke off is simply failed, or tried again."""
    lost = OutcomeUnknown("it broke off", transient=True)

    failed = await execute(agent(step("a")), by=by(Runner(a=failing(lost))))
    repeated = await execute(agent(step("a", retry={})), by=by(Runner(a=failing(lost, None))))

    assert (failed.outcome, failed.reason) == ("failed", Reason.STEP_FAILED)
    assert repeated.outcome == "succeeded"


async def test_a_failure_lets_a_payment_beside_it_come_to_an_end() -> None:
    """When a step fails, a reading beside it is dropped, but a payment is seen through."""
    begun, journal = asyncio.Barrier(3), Journal()
    release = asyncio.Event()

    async def fail(_: Scope) -> object:
        await begun.wait()
        asyncio.get_running_loop().call_later(0.02, release.set)
        raise StepFailed("no")

    async def pay(_: Scope) -> object:
        await begun.wait()
        await release.wait()
        return "paid"

    async def read(_: Scope) -> object:
        await begun.wait()
        await asyncio.Event().wait()
        return None

    what = agent(step("bad"), step("pay", **PAY), step("read"))
    finish = await execute(what, journal=journal, by=by(Runner(bad=fail, pay=pay, read=read)))

    assert (finish.outcome, finish.message) == ("failed", "steps.bad: no")
    assert journal.records["pay"].state == "succeeded"
    assert "read" not in journal.records


async def test_a_run_out_of_time_ends() -> None:
    """Past its deadline, a run fails with the reason that makes it expired."""

    async def hang(_: Scope) -> object:
        await asyncio.Event().wait()
        return None

    finish = await execute(agent(step("a")), assignment(deadline=0.05), by=by(Runner(a=hang)))

    assert (finish.outcome, finish.reason) == ("failed", Reason.RUN_TIMED_OUT)


async def test_a_run_out_of_time_in_a_payment_is_ambiguous() -> None:
    """A deadline in the middle of what must not be repeated leaves its outcome unknown."""

    async def hang(_: Scope) -> object:
        await asyncio.Event().wait()
        return None

    finish = await execute(agent(step("pay", **PAY)), assignment(deadline=0.05), by=by(Runner(pay=hang)))

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)


async def test_a_run_that_is_broken_off_keeps_what_is_done() -> None:
    """Cancelling an attempt stops its steps; a step that ended in that moment is kept."""
    stopped = asyncio.Event()
    begun = asyncio.Event()

    async def hang(_: Scope) -> object:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return None

    journal = Journal()
    what = agent(step("a"), step("b", "a"))
    running = asyncio.create_task(execute(what, journal=journal, by=by(Runner(b=hang))))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert stopped.is_set()
    assert journal.history == [("a", "succeeded")]


@pytest.mark.parametrize(
    ("value", "reason", "said"),
    [
        (
            "x" * 1_048_577,
            Reason.OUTPUT_TOO_LARGE,
            "the output is too large: 1048579 bytes, the most is 1048576",
        ),
        (object(), Reason.OUTPUT_INVALID, "the output is not JSON"),
        ({1j: 2}, Reason.OUTPUT_INVALID, "the output is not JSON"),
        ("\ud800", Reason.OUTPUT_INVALID, "the output is not JSON"),
    ],
    ids=["too large", "object", "complex key", "half a character"],
)
async def test_an_output_that_cannot_be_kept_fails_its_step(value: object, reason: str, said: str) -> None:
    """An output over 1 MiB or that is not JSON is refused with one sentence."""

    async def act(_: Scope) -> object:
        return value

    finish = await execute(agent(step("a")), by=by(Runner(a=act)))

    assert (finish.outcome, finish.reason) == ("failed", reason)
    assert finish.message.startswith(f"steps.a: {said}")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a\x00b", "a\ufffdb"),
        ("a\\u0000b", "a\\u0000b"),
        ("\\\x00", "\\\ufffd"),
        ({"\x00": 1}, {"\ufffd": 1}),
    ],
)
async def test_a_nul_character_does_not_stop_the_record(value: object, kept: object) -> None:
    """A NUL, which PostgreSQL cannot keep, becomes a replacement character; its spelling stays."""

    async def act(_: Scope) -> object:
        return value

    finish = await execute(agent(step("a")), by=by(Runner(a=act)))

    assert output_of(finish) == kept


async def test_an_output_is_held_against_its_schema() -> None:
    """A run's output that does not match `output.schema` fails the run."""
    what = agent(
        step("a"), output={"value": "{'n': steps.a}", "schema": {"properties": {"n": {"type": "integer"}}}}
    )

    finish = await execute(what, by=by(Runner()))

    assert (finish.outcome, finish.reason) == ("failed", Reason.OUTPUT_INVALID)
    assert "/n" in finish.message


async def test_an_output_that_matches_its_schema_is_handed_in() -> None:
    """A run's output that matches is the run's output."""
    what = agent(step("a"), output={"value": "steps.a", "schema": {"type": "string"}})

    assert output_of(await execute(what, by=by(Runner()))) == "a"


async def test_an_output_that_cannot_be_evaluated_fails_the_run() -> None:
    """An error in `output.value` is told as a sentence."""
    finish = await execute(agent(step("a"), output={"value": "steps.a.b"}), by=by(Runner()))

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_FAILED)


async def test_a_graph_that_cannot_go_on_says_so() -> None:
    """A step that needs what is not there fails the run instead of hanging it."""
    finish = await execute(agent(step("a"), step("b", "ghost")), by=by(Runner()))

    assert finish.outcome == "failed"
    assert finish.message.endswith("not done: b")


async def test_a_step_of_a_later_version_fails_by_name() -> None:
    """A member that this version cannot run is refused, never skipped."""
    finish = await execute(agent({"name": "new", "later": {"message": "?"}}))

    assert (finish.outcome, finish.reason) == ("failed", Reason.NOT_YET_SUPPORTED)
    assert finish.message.startswith("steps.new: ")


async def test_messages_are_cut() -> None:
    """No sentence about a failure is longer than the record shows."""
    finish = await execute(agent(step("a")), by=by(Runner(a=failing(StepFailed("x" * 5000)))))

    assert len(finish.message) == 1000


async def test_steps_are_counted() -> None:
    """Figures tell kind and end of every step."""
    figures = Figures()
    lost = OutcomeUnknown("?", transient=True)
    runner = Runner(a=failing(None), pay=failing(lost))

    await execute(agent(step("a"), step("pay", "a", **PAY)), by=by(runner, figures=figures))

    assert dict(figures.steps) == {("transform", "succeeded"): 1, ("http", "unknown"): 1}


class Killed(Exception):
    """The worker is gone."""


@pytest.mark.parametrize("dies_after", range(6))
async def test_wherever_the_worker_dies_the_next_one_repeats_nothing(dies_after: int) -> None:
    """After each durable write the worker may die; the next attempt does only what is left."""
    names = [f"s{n}" for n in range(6)]
    what = agent(*(step(name, *names[:n][-1:]) for n, name in enumerate(names)))
    record: dict[str, StepRecord] = {}
    first, second = Runner(), Runner()

    class Mortal(Journal):
        def note(self, written: StepRecord) -> None:
            record[written.name] = written
            if len(record) > dies_after:
                raise Killed

    with pytest.raises(Killed):
        await execute(what, journal=Mortal(), by=by(first))
    finish = await execute(what, assignment(steps=tuple(record.values()), attempt=2), by=by(second))

    assert finish.outcome == "succeeded"
    assert first.done + second.done == names


async def test_an_attempt_that_lost_its_run_ends() -> None:
    """When a checkpoint is refused because another attempt holds the run, the attempt breaks off."""

    class Lost(Journal):
        async def commit(self, record: StepRecord) -> None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

    async def attempt(given: Assignment) -> Finish:
        return await execute_run(given, Lost(), agent=agent(step("pay", **PAY)), doing=by(Runner()))

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(attempt(assignment()))
