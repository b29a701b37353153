"""Code steps: the author's function, its Context, and what is left when its worker dies."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog
from tests.support import code_agents
from tests.support.worker import (
    FakeGateway,
    Journal,
    Way,
    agent,
    assignment,
    doing,
    execute,
    output_of,
    raw,
    step,
)

from everesthood.adapters.gateway import LeasedCredentials
from everesthood.adapters.steps import Steps, authors_loop, code_step
from everesthood.adapters.telemetry.work_figures import WorkerMetrics
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease, Finish, StepRecord
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.ports.worker import Answer, Call

SECRET = 'sk-"canary"-7f3a9c'


class Leasing(FakeGateway):
    """Leases one credential."""

    async def lease(self, slot: str) -> CredentialLease:
        return CredentialLease(type="Bearer", value=SECRET)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    code_agents.CALLS.clear()
    code_agents.HOLD.clear()
    yield
    code_agents.HOLD.set()


def code(function: str, **fields: Any) -> dict[str, Any]:
    args = {"args": fields.pop("args")} if "args" in fields else {}
    return step("work", code={"entrypoint": f"tests.support.code_agents:{function}", **args}, **fields)


async def run(
    function: str,
    value: object = None,
    *,
    past: tuple[StepRecord, ...] = (),
    attempt: int = 1,
    journal: Journal | None = None,
    by: Doing | None = None,
    name: str = "run-1",
    **fields: Any,
) -> Finish:
    given = assignment(name, value=value, steps=past, attempt=attempt)
    what = agent(code(function, **fields), config={"c": 1})
    return await execute(what, given, journal=journal, by=by or doing())


async def test_a_function_sees_its_run() -> None:
    """Input, config, args and the run's ids are in the Context."""
    finish = await run("echo", {"n": 2}, args="input.n + config.c", attempt=4)

    assert output_of(finish) == {
        "input": {"n": 2}, "config": {"c": 1}, "args": 3, "run": ["run-1", 4, "request-1"],
    }  # fmt: skip


async def test_a_plain_function_runs_in_a_thread() -> None:
    """A function without `async` does not hold up other runs, and can still checkpoint, log and count."""
    journal = Journal()
    finish = await run("plain", 21, journal=journal)

    assert output_of(finish) == [True, 42]
    assert journal.records["work/double"].output == raw(42)
    assert msgspec.json.decode(journal.records["work/$usage"].output) == {"pages": 2}
    assert ("info", "from a thread", "work") in journal.lines


async def test_each_piece_is_a_checkpoint_and_a_resumed_run_does_only_the_rest() -> None:
    """`ctx.step` returns the kept value where there is one; uses of a name are numbered."""
    journal = Journal()
    first = await run("pieces", {"fails": "c"}, journal=journal)
    past = tuple(r for r in journal.records.values() if r.state == "succeeded")
    code_agents.CALLS.clear()
    second = await run("pieces", {"fails": "c"}, past=past, attempt=2)

    assert (first.outcome, first.message) == ("failed", "steps.work: ValueError: not today")
    assert [r.name for r in past] == ["work/piece", "work/piece#2"]
    assert code_agents.CALLS == ["c"]
    assert output_of(second) == ["A", "B", "C"]


async def test_another_try_of_the_step_does_only_the_rest_too() -> None:
    """With `retry`, pieces that were done are not done again by the next try."""
    finish = await run("pieces", {"fails": "c"}, retry={"maxAttempts": 2})

    assert finish.outcome == "failed"
    assert code_agents.CALLS == ["a", "b", "c", "c"]


async def test_a_payment_is_announced_and_not_repeated_unseen() -> None:
    """A piece with idempotent=False is written as started first; found started, the run is ambiguous."""
    journal = Journal()
    seen: list[str] = []

    def answer(_: Call) -> Answer:
        seen.append(journal.records["work/pay"].state)
        return Answer(status=201, headers={}, body=b"")

    done = await run("pays", "https://bank.example/", journal=journal, by=doing(Way(answer)))
    doubt = await run("pays", "https://x/", past=(StepRecord(name="work/pay", state="started"),), attempt=2)

    assert (output_of(done), seen) == ("201", ["started"])
    assert journal.history == [("work/pay", "started"), ("work/pay", "succeeded"), ("work", "succeeded")]
    assert (doubt.outcome, doubt.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert code_agents.CALLS == ["pay"]


async def test_a_payment_that_broke_off_is_ambiguous_even_with_retry() -> None:
    """An unknown outcome inside a piece that must not be repeated ends the run for a person to decide."""

    def broken(_: Call) -> Answer:
        raise OutcomeUnknown("it broke off", transient=True)

    finish = await run("pays", "https://bank.example/", by=doing(Way(broken)), retry={"maxAttempts": 3})

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert code_agents.CALLS == ["pay"]


async def test_a_payment_that_was_refused_is_a_known_failure() -> None:
    """A piece that failed with an answer may be tried again."""
    answers = [StepFailed("refused", transient=True), None]

    def answer(_: Call) -> Answer:
        failure = answers.pop(0)
        if failure is not None:
            raise failure
        return Answer(status=200, headers={}, body=b"")

    journal = Journal()
    finish = await run(
        "pays", "https://bank.example/", journal=journal, by=doing(Way(answer)), retry={"maxAttempts": 2}
    )

    assert finish.outcome == "succeeded"
    assert [state for name, state in journal.history if name == "work/pay"] == [
        "started", "failed", "started", "succeeded",
    ]  # fmt: skip


async def test_a_repeated_call_has_the_key_of_the_first() -> None:
    """On every attempt the same call of the same piece carries the same Idempotency-Key."""
    keys = []
    for attempt in (1, 2):
        way = Way()
        await run("pays", "https://bank.example/", attempt=attempt, by=doing(way))
        keys.append(dict(way.calls[0].headers)["idempotency-key"])

    assert keys[0] == keys[1]
    assert len(keys[0]) == 64


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("other", "LookupError: somewhere else"),
        ("exit", "SystemExit: 3"),
        ("final", "not with this input"),
    ],
)
async def test_an_exception_is_the_steps_failure(kind: str, said: str) -> None:
    """Whatever the author's code raises fails its step, by type and text; nothing else dies."""
    finish = await run("fails", kind)

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_FAILED)
    assert finish.message == f"steps.work: {said}"


async def test_the_log_shows_where_the_authors_code_broke() -> None:
    """The run's log has the author's part of the traceback."""
    journal = Journal()
    await run("fails", "other", journal=journal)

    level, text, where = journal.lines[-1]
    assert (level, where) == ("error", "work")
    assert "code_agents.py" in text
    assert text.endswith("LookupError: somewhere else")


async def test_a_final_failure_is_not_tried_again() -> None:
    """StepFailed from the author's code ends the step whatever `retry` says."""
    journal = Journal()
    await run("fails", "final", journal=journal, retry={"maxAttempts": 5})

    assert journal.records["work"].tries == 1


async def test_a_credential_gets_out_in_no_way() -> None:
    """Log, checkpoint, output and message of a run show a mark where the value was."""
    journal = Journal()
    by = doing(credentials=LeasedCredentials(Leasing()))
    leaked = await run("leaks", journal=journal, by=by)
    failed = await run("fails", "secret", journal=journal, by=by)

    everything = repr((leaked, failed, journal.records, journal.lines))
    assert "canary" not in everything
    assert output_of(leaked) == {"[credential]": ["[credential]", "Bearer [credential]"]}
    assert journal.lines[0][1] == "value is [credential]"
    assert failed.message == "steps.work: ValueError: [credential]"


async def test_a_credential_is_leased_under_the_runs_request_id() -> None:
    """What a step asks the gateway for is asked in the name of the request that had the run begun."""
    found: list[object] = []

    class Noting(Leasing):
        async def lease(self, slot: str) -> CredentialLease:
            found.append(structlog.contextvars.get_contextvars().get("request_id"))
            return await super().lease(slot)

    async def held() -> None:
        WorkerMetrics().enter_run("run-1", "request-1", 1)
        await run("leaks", by=doing(credentials=LeasedCredentials(Noting())))

    await asyncio.create_task(held())  # as the work loop does

    assert found == ["request-1"]


async def test_http_calls_go_through_the_guard() -> None:
    """`ctx.http` sends what it is told, and a status can be raised."""

    def answer(call: Call) -> Answer:
        if call.url.endswith("missing"):
            return Answer(status=404, headers={}, body=b"secret body")
        return Answer(status=200, headers={"content-type": "application/json"}, body=b'{"a":1}')

    way = Way(answer)
    finish = await run("calls", {"url": "https://example.com/"}, by=doing(way))

    assert output_of(finish) == [{"a": 1}, '{"a":1}', True, "the call was answered with 404"]
    assert ("x-a", "1") in way.calls[0].headers
    assert "idempotency-key" not in dict(way.calls[0].headers)
    assert (way.calls[1].method, way.calls[1].content) == ("PUT", b"x")


async def test_model_calls_are_counted() -> None:
    """`ctx.llm` counts its tokens in the step's usage, which goes on from earlier attempts."""
    body = {
        "choices": [{"message": {"content": '{"summary": "Rain."}'}}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2},
    }
    way = Way(lambda _: Answer(status=200, headers={}, body=msgspec.json.encode(body)))
    journal = Journal()
    past = (StepRecord(name="work/$usage", state="succeeded", output=raw({"inputTokens": 3})),)
    finish = await run(
        "asks", {"endpoint": "https://m.example/v1"}, past=past, journal=journal, by=doing(way)
    )

    assert output_of(finish) == [{"summary": "Rain."}, True]
    usage = msgspec.json.decode(journal.records["work/$usage"].output)
    assert usage == {"inputTokens": 10, "outputTokens": 2}


async def test_a_plain_function_that_outlived_its_step_can_do_nothing_more() -> None:
    """A thread cannot be stopped, so it is shut out, and no second one is started beside it."""
    journal = Journal()
    finish = await run("blocks", journal=journal, timeoutSeconds=1, retry={"maxAttempts": 2})
    code_agents.HOLD.set()
    async with asyncio.timeout(5):
        while len(code_agents.CALLS) < 2:
            await asyncio.sleep(0.01)

    assert finish.outcome == "failed"
    assert finish.message.startswith("steps.work: the try before is still running in its thread")
    assert code_agents.CALLS == ["blocks", "the step is over: its code can do nothing more"]
    assert "work/late" not in journal.records


async def test_plain_functions_never_wait_for_each_others_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """More functions than threads, each waiting for a piece in a thread: all come to their end."""
    monkeypatch.setattr(code_step, "_MOST_THREADS", 2)
    by = doing()
    async with asyncio.timeout(10):
        ends = await asyncio.gather(*(run("nested", 3, by=by, name=f"run-{n}") for n in range(4)))

    assert [output_of(finish) for finish in ends] == [3] * 4


async def test_pieces_nest_so_deep_and_no_deeper() -> None:
    """Code that calls itself for ever takes a few threads, and is told."""
    finish = await run("nested", 1000)

    assert finish.outcome == "failed"
    assert finish.message.endswith("pieces of plain code are nested more than 8 deep")


async def test_a_worker_whose_threads_never_return_wants_to_be_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Functions that outlived their steps are named, and are forgotten once they return."""
    monkeypatch.setattr(code_step, "_MOST_THREADS", 2)
    by = doing()
    runner = by.runner
    assert isinstance(runner, Steps)
    await run("blocks", by=by, timeoutSeconds=1)
    said = runner.trouble()
    code_agents.HOLD.set()
    async with asyncio.timeout(5):
        while runner.trouble() is not None:
            await asyncio.sleep(0.01)

    assert said == "1 threads are held by code that outlived its step: work"


async def test_a_plain_piece_that_never_returns_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An async function ends with its step, and its plain piece goes on: that thread is as lost."""
    monkeypatch.setattr(code_step, "_MOST_THREADS", 2)
    by = doing()
    runner = by.runner
    assert isinstance(runner, Steps)
    await run("blocks_in_a_piece", by=by, timeoutSeconds=1)
    said = runner.trouble()
    code_agents.HOLD.set()
    async with asyncio.timeout(5):
        while runner.trouble() is not None:
            await asyncio.sleep(0.01)

    assert said == "1 threads are held by code that outlived its step: work"


async def test_what_only_waited_for_a_thread_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that got no thread in its time is not begun after it, and is not named as stuck."""
    monkeypatch.setattr(code_step, "_MOST_THREADS", 1)
    by = doing()
    runner = by.runner
    assert isinstance(runner, Steps)
    for name in ("run-1", "run-2"):
        await run("blocks", by=by, name=name, timeoutSeconds=1)
    said = runner.trouble()
    code_agents.HOLD.set()
    finish = await run("plain", 2, by=by, name="run-3")

    assert said == "1 threads are held by code that outlived its step: work"
    assert (output_of(finish), code_agents.CALLS.count("blocks")) == ([True, 4], 1)


async def test_threads_of_the_authors_own_may_ask_for_plain_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that the worker did not make takes none of those that its function's peers hold."""
    monkeypatch.setattr(code_step, "_MOST_THREADS", 2)
    by = doing()
    names = ("run-1", "run-2")
    ends = await asyncio.gather(
        *(run("waits_for_its_own_thread", by=by, name=name, timeoutSeconds=5) for name in names)
    )

    assert [output_of(finish) for finish in ends] == [1, 1]


@pytest.mark.parametrize(
    ("function", "value"), [("quits", None), ("quits_in_a_piece", "plain"), ("quits_in_a_piece", "async")]
)
async def test_code_that_exits_ends_its_step_and_not_the_worker(function: str, value: object) -> None:
    """`sys.exit` in a thread or in a piece is a failure like any other."""
    finish = await run(function, value)

    assert (finish.outcome, finish.message) == ("failed", "steps.work: SystemExit: 3")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("name", "'a/b' is no name for a step"),
        ("usage", "usage 'tokens' -1: give a name and a whole number"),
        ("wait", "ctx.wait blocks: in an async function, await instead"),
        ("large", "the value of work/large is too large"),
        ("object", "the value of work/object is not JSON"),
    ],
)
async def test_misuse_is_told_in_one_sentence(kind: str, said: str) -> None:
    """What an author does wrong is said with its remedy."""
    finish = await run("odd", kind)

    assert finish.outcome == "failed"
    assert finish.message.startswith(f"steps.work: {said}")


async def test_pieces_may_run_side_by_side() -> None:
    """Uses of one name at the same time are numbered in the order of the calls."""
    journal = Journal()
    finish = await run("odd", "gather", journal=journal)

    assert output_of(finish) == [0, 1, 2]
    assert {"work/same", "work/same#2", "work/same#3"} <= journal.records.keys()


@pytest.mark.parametrize(
    ("entrypoint", "said"),
    [
        ("no_such_module:main", "the worker's image has no module no_such_module"),
        ("tests.support.code_agents:ghost", "module tests.support.code_agents has no function ghost"),
        ("tests.support.code_agents:NOT_A_FUNCTION", "is not a function"),
        ("antigravity_missing.sub:main", "the worker's image has no module antigravity_missing"),
    ],
)
async def test_code_that_is_not_there_is_told_before_work_begins(entrypoint: str, said: str) -> None:
    """A worker whose image lacks the code says which step and what is missing."""
    what = agent(step("a"), {"name": "work", "code": {"entrypoint": entrypoint}})
    steps: Any = doing().runner
    with pytest.raises(StepFailed, match=said) as missing:
        await steps.prepare(what.spec.steps)

    assert missing.value.message.startswith("spec.steps[1].code.entrypoint: ")


async def test_code_that_is_there_is_found_once() -> None:
    """Preparing finds every function, and a run uses what was found."""
    by = doing()
    steps: Any = by.runner
    await steps.prepare(agent(code("echo")).spec.steps)

    assert (await run("echo", 1, by=by)).outcome == "succeeded"


class Bank(Way):
    """Takes a payment once it is let to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = asyncio.Event()
        self.release = asyncio.Event()

    async def send(self, call: Call) -> Answer:
        if "other.example" in call.url:
            await self.begun.wait()
            asyncio.get_running_loop().call_later(0.02, self.release.set)
            return Answer(status=404, headers={}, body=b"")
        self.begun.set()
        await self.release.wait()
        return Answer(status=200, headers={}, body=b"")


async def test_a_payment_comes_to_its_end_when_another_step_fails() -> None:
    """A piece that must not be repeated is waited for, and its end is written."""
    journal = Journal()
    bad = step("bad", http={"url": "https://other.example/"})
    what = agent(code("pays"), bad)
    finish = await execute(what, assignment(value="https://bank.example/"), journal=journal, by=doing(Bank()))

    assert (finish.outcome, finish.message) == ("failed", "steps.bad: GET other.example answered 404")
    assert journal.records["work/pay"].state == "succeeded"


@pytest.mark.parametrize("limit", ["step", "run"])
async def test_running_out_of_time_in_a_payment_is_ambiguous(limit: str) -> None:
    """Whichever time runs out, nobody knows whether the payment took effect, and no other try is made."""
    given = assignment(value="https://bank.example/", deadline=0.2 if limit == "run" else 60)
    what = agent(code("pays", timeoutSeconds=1, retry={"maxAttempts": 3}))
    finish = await execute(what, given, by=doing(Bank()))

    assert (finish.outcome, finish.reason) == ("ambiguous", Reason.OUTCOME_UNKNOWN)
    assert code_agents.CALLS == ["pay"]


async def test_an_async_function_that_blocks_holds_up_nothing_but_itself(monkeypatch) -> None:
    """The step ends at its timeout, the worker's loop goes on turning, and the next run gets a loop that answers."""
    monkeypatch.setattr(authors_loop, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(authors_loop, "TIDY_SECONDS", 0.1)
    by, turns = doing(), 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    turning = asyncio.create_task(turn())
    finish = await run("blocks_its_loop", timeoutSeconds=1, by=by)
    turning.cancel()

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_TIMED_OUT)
    assert turns > 30
    assert output_of(await run("echo", {"n": 2}, by=by))["input"] == {"n": 2}


async def test_async_code_has_one_loop() -> None:
    """Functions and their pieces share one loop, which clients that a module keeps are bound to."""
    by = doing()
    loops = {loop for _ in range(2) for loop in output_of(await run("where", by=by))}

    assert len(loops) == 1
    assert loops != {id(asyncio.get_running_loop())}


async def test_cancelled_async_code_tidies_up() -> None:
    """Code that is cut off at its timeout runs its `finally` before the step is over."""
    finish = await run("tidies", timeoutSeconds=1)

    assert finish.reason == Reason.STEP_TIMED_OUT
    assert code_agents.CALLS == ["waits", "tidied"]
