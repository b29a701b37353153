"""An approval in a run: when it asks, what goes on meanwhile, what an answer comes to."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.worker import Journal, agent, assignment, execute, output_of, raw, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Ask, Finish, StepRecord
from everesthood.domain.approvals import Decision, Question, settle, settle_unanswered
from everesthood.domain.doubts import Resolution, resolve
from everesthood.domain.errors import Conflict
from everesthood.domain.runs import FINAL, RunId, RunState
from everesthood.usecases.outbox import Note, Outbox

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ANSWER = raw({"approved": True, "by": "bob", "comment": "", "at": "2026-11-25T12:00:00+00:00"})


def asking(message: str = "May I?", **more: object) -> dict[str, object]:
    return {"message": message, **more}


def answered(name: str = "ask") -> StepRecord:
    return StepRecord(name=name, state="succeeded", output=ANSWER)


async def test_a_run_waits_with_its_question() -> None:
    """The question is rendered; its deadline and what a no does go along; nothing is written of the step."""
    journal = Journal()
    what = agent(
        step("a", value="7"),
        step("ask", "a", approval=asking("Pay {{ steps.a }}?", deadlineSeconds=90, onReject="Continue")),
        step("pay", "ask"),
    )

    finish = await execute(what, journal=journal)

    assert (finish.outcome, finish.message) == ("waiting", "steps.ask: Pay 7?")
    assert finish.asks == (Ask(step="ask", message="Pay 7?", deadline_seconds=90, on_reject="Continue"),)
    assert [name for name, _ in journal.history] == ["a"]


async def test_an_answer_lets_the_run_go_on_and_can_be_looked_at() -> None:
    """The next attempt asks nobody, and later steps see who said what."""
    what = agent(step("ask", approval=asking()), step("b", "ask", value="steps.ask.by"))

    assert output_of(await execute(what, assignment(steps=(answered(),), attempt=1))) == "bob"


async def test_a_run_waits_only_when_nothing_else_can_go_on() -> None:
    """Other branches come to their end first; all questions are asked together."""
    journal = Journal()
    what = agent(
        step("ask", approval=asking("one?")),
        step("also", approval=asking("two?")),
        step("a", value="1"),
        step("b", "a", value="2"),
        step("c", "b", "ask", value="3"),
    )

    first = await execute(what, journal=journal)
    second = await execute(what, assignment(steps=(answered(), *journal.records.values())), journal=journal)

    assert [ask.step for ask in first.asks] == ["ask", "also"]
    assert [name for name, _ in journal.history] == ["a", "b", "c"]
    assert [ask.step for ask in second.asks] == ["also"]


async def test_an_approval_that_is_not_due_is_skipped() -> None:
    """`when` decides whether a person is asked at all."""
    what = agent(step("ask", approval=asking(), when="input.cents > 100"), step("b", "ask", value="'done'"))

    assert output_of(await execute(what, assignment(value={"cents": 1}))) == "done"


async def test_a_question_that_cannot_be_put_fails_the_step() -> None:
    """A template's error is no question."""
    finish = await execute(agent(step("ask", approval=asking("{{ input.ghost.name }}"))))

    assert (finish.outcome, finish.reason) == ("failed", Reason.STEP_FAILED)
    assert finish.message.startswith("steps.ask: ")


async def test_a_failure_beside_a_question_is_the_end() -> None:
    """Nobody is asked for a run that has failed anyway."""
    what = agent(step("ask", approval=asking()), step("a", value="input.ghost"))

    finish = await execute(what)

    assert (finish.outcome, finish.asks) == ("failed", ())


async def test_a_no_ends_the_run_for_good() -> None:
    """The failed step is found at the next start, and the template's retry does not ask again."""
    what = agent(step("ask", approval=asking()), queue={"retry": {"maxAttempts": 3}})
    no = StepRecord(
        name="ask", state="failed", reason=Reason.APPROVAL_REJECTED, message="rejected by bob: too dear"
    )

    finish = await execute(what, assignment(steps=(no,)))

    assert (finish.outcome, finish.reason, finish.transient) == ("failed", Reason.APPROVAL_REJECTED, False)
    assert finish.message == "steps.ask: rejected by bob: too dear"


async def test_a_long_question_is_cut() -> None:
    """No question is longer than the record keeps."""
    finish = await execute(agent(step("ask", approval=asking("{{ input }}"))), assignment(value="x" * 9000))

    assert len(finish.asks[0].message) == 4000
    assert len(finish.message) == 1000


def test_what_a_finish_says_survives_company() -> None:
    """Checkpoints that still wait go along in it, and nothing of it is lost: questions, hope, a wait."""
    outbox = Outbox()
    outbox.note("run-1", 1, Note(record=StepRecord(name="a", state="succeeded")))
    ask = Ask(step="ask", message="?", deadline_seconds=60)
    end = Finish(run="run-1", fence=1, outcome="failed", transient=True, retry_after_seconds=7.0, asks=(ask,))

    outbox.finish(end)

    (sent,) = outbox.take().finishes
    assert [one.name for one in sent.steps] == ["a"]
    assert msgspec.structs.replace(sent, steps=()) == end


def question(state: RunState = RunState.WAITING, **more: object) -> Question:
    fields = {"deadline_at": NOW + timedelta(hours=1), "on_reject": "Fail", **more}
    return Question(run_state=state, **fields)  # type: ignore[arg-type]


def decision(*, approved: bool = True) -> Decision:
    return Decision(namespace="acme", run=RunId("r"), step="ask", approved=approved, actor="bob")


@given(
    state=st.sampled_from(RunState),
    verdict=st.sampled_from([None, "approved", "rejected", "expired"]),
    on_reject=st.sampled_from(["Fail", "Continue"]),
    left=st.integers(-5, 5),
    approved=st.booleans(),
)
def test_an_answer_counts_once_and_in_time(state, verdict, on_reject, left, approved) -> None:
    """Whatever happened before: a decision never changes, and only a run that waits or is due is changed."""
    asked = question(
        state, verdict=verdict, on_reject=on_reject, deadline_at=NOW + timedelta(seconds=left), decided_by="x"
    )
    said = decision(approved=approved)
    try:
        settled = settle(asked, said, NOW)
    except Conflict:
        assert verdict not in (None, said.verdict) or state in FINAL or left <= 0
        return

    if settled is None:
        assert verdict == said.verdict
        return
    assert (verdict, state in FINAL, left > 0) == (None, False, True)
    goes_on = approved or on_reject == "Continue"
    assert settled.step_state == ("succeeded" if goes_on else "failed")
    if state is RunState.WAITING:
        assert settled.becomes is not None
        assert settled.becomes.state is (RunState.QUEUED if goes_on else RunState.DEAD)
    elif state is RunState.RUNNING or goes_on:
        assert settled.becomes is None


def test_silence_is_a_no_with_its_own_reason() -> None:
    """A run that waits is over; one that works finds the failed step by itself."""
    waiting, running = (settle_unanswered(s, "ask") for s in (RunState.WAITING, RunState.RUNNING))

    assert waiting.becomes is not None
    assert (waiting.becomes.state, waiting.becomes.reason) == (RunState.DEAD, Reason.APPROVAL_EXPIRED)
    assert running.becomes is None


@pytest.mark.parametrize(
    ("doubts", "answer", "step", "done", "forgotten", "goes_on"),
    [
        (["pay"], "done", None, "pay", [], True),
        (["pay"], "repeat", None, None, ["pay"], True),
        (["loop", "loop[0].pay"], "done", None, "loop[0].pay", ["loop"], True),
        (["loop", "loop[0].pay"], "done", "loop", "loop", ["loop[0].pay"], True),
        (["buy", "buy/turn1/call1"], "repeat", "buy/turn1/call1", None, ["buy", "buy/turn1/call1"], True),
        (["a", "b"], "done", "a", "a", [], False),
        (["a", "b"], "repeat", None, None, ["a", "b"], True),
        ([], "repeat", None, None, [], True),
        (["loop[1].pay", "loop[10].pay"], "repeat", "loop[1].pay", None, ["loop[1].pay"], False),
        (["pay", "payback"], "repeat", "payback", None, ["payback"], False),
    ],
)
def test_a_doubt_is_resolved(doubts, answer, step, done, forgotten, goes_on) -> None:
    """What is around a step goes on from its checkpoints; what is beside it stays in doubt."""
    said = Resolution(namespace="acme", run=RunId("r"), answer=answer, actor="ada", step=step)

    found = resolve(RunState.AMBIGUOUS, doubts, said)

    assert (found.done, list(found.forgotten)) == (done, forgotten)
    assert found.becomes.state is (RunState.QUEUED if goes_on else RunState.AMBIGUOUS)
