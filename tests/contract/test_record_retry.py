"""What a run whose attempt failed may rely on: when it is tried again, from where, and when not."""

from datetime import timedelta

import msgspec
import pytest
from tests.support.record import LEASE_SECONDS, Harness, finish, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Assignment
from everesthood.domain.runs import LONGEST_RETRY_AFTER_SECONDS, RunId, RunRetry, RunState

pytestmark = pytest.mark.contract
RETRY = RunRetry(max_attempts=3, initial_seconds=10, max_seconds=15)


async def failing(record: Harness, held: Assignment, **said: object) -> None:
    said = {"transient": True, "reason": "StepFailed", "message": "It was busy."} | said
    await record.hand_in(finish(held, "failed", **said))


async def test_a_transient_failure_is_tried_again_later(published: Harness):
    """The run waits, with the reason of its failure, and starts again when its pause is over."""
    accepted = await published.accept(retry=RETRY)
    (held,) = await published.claim()

    await failing(published, held)
    waiting = await published.run(accepted.run)
    await published.age(11)
    (again,) = await published.claim()

    assert (waiting.state, waiting.reason, waiting.message) == (
        RunState.QUEUED,
        Reason.STEP_FAILED,
        "It was busy.",
    )
    assert (waiting.failures, waiting.attempt, waiting.finished_at) == (1, 1, None)
    assert (again.attempt, again.fence) == (2, 2)
    assert (await published.run(accepted.run)).reason is None


async def test_it_goes_on_from_its_last_checkpoint(published: Harness):
    """Steps that succeeded are not done again, steps that failed are."""
    await published.accept(retry=RETRY)
    (held,) = await published.claim()
    await published.checkpoint(held, step("read", output=1), step("tell", "failed"))

    await failing(published, held, steps=(step("write", "failed"),))
    await published.age(11)
    (again,) = await published.claim()

    assert [(s.name, s.state) for s in again.steps] == [("read", "succeeded")]
    assert [(s.name, s.state) for s in await published.runs.steps(RunId(held.run))] == [
        ("read", "succeeded"),
        ("tell", "failed"),
        ("write", "failed"),
    ]


async def test_a_failure_of_an_attempt_that_died_is_kept(published: Harness):
    """Only what was to be tried again is forgotten: a later failure that could not be said decides the run."""
    await published.accept(retry=RETRY, max_attempts=5)
    (held,) = await published.claim()
    await failing(published, held)
    await published.age(11)
    (again,) = await published.claim()
    await published.checkpoint(again, step("tell", "failed"))
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()

    (third,) = await published.claim()

    assert [(s.name, s.state) for s in third.steps] == [("tell", "failed")]


async def test_after_the_last_failed_attempt_the_run_is_dead(published: Harness):
    """It fails as often as the template allows."""
    accepted = await published.accept(retry=RETRY)

    for _ in range(3):
        (held,) = await published.claim()
        await failing(published, held, message="Busy.")
        await published.age(20)

    run = await published.run(accepted.run)
    assert (run.state, run.reason, run.message, run.failures) == (
        RunState.DEAD,
        Reason.STEP_FAILED,
        "Busy.",
        3,
    )
    assert await published.claim() == ()


@pytest.mark.parametrize(
    ("retry", "said", "state"),
    [
        (RunRetry(), {}, RunState.DEAD),
        (RETRY, {"transient": False}, RunState.DEAD),
        (RETRY, {"reason": "RunTimedOut"}, RunState.EXPIRED),
    ],
)
async def test_what_ends_a_run_at_once(
    published: Harness, retry: RunRetry, said: dict[str, object], state: RunState
):
    """Without a retry in the template, or with a failure that stays, nothing is tried again."""
    accepted = await published.accept(retry=retry)
    (held,) = await published.claim()

    await failing(published, held, **said)

    assert (await published.run(accepted.run)).state is state


@pytest.mark.parametrize(("wish", "least"), [(100.0, 100.0), (1e9, LONGEST_RETRY_AFTER_SECONDS)])
async def test_whoever_asks_to_wait_is_heard(published: Harness, wish: float, least: float):
    """Retry-After decides the pause, up to a cap, with a little spread."""
    accepted = await published.accept(retry=RETRY, max_run_seconds=100_000)
    (held,) = await published.claim()

    await failing(published, held, retry_after_seconds=wish)

    run = await published.run(accepted.run)
    assert run.due_at is not None
    assert run.started_at is not None
    pause = run.due_at - run.started_at
    assert timedelta(seconds=least) <= pause <= timedelta(seconds=least + 11)


async def test_a_pause_beyond_the_deadline_is_not_begun(published: Harness):
    """The time of the whole run stays bounded: what could not start in time is dead now."""
    accepted = await published.accept(retry=RETRY, max_run_seconds=60)
    (held,) = await published.claim()

    await failing(published, held, retry_after_seconds=61)

    run = await published.run(accepted.run)
    assert (run.state, run.reason, run.failures) == (RunState.DEAD, Reason.STEP_FAILED, 1)


async def test_a_waiting_retry_runs_out_of_time(published: Harness):
    """Nobody may come for it: the deadline counts from the first start."""
    accepted = await published.accept(retry=RETRY, max_run_seconds=60)
    (held,) = await published.claim()
    await failing(published, held)
    await published.age(61)

    await published.clock.rescue()

    assert (await published.run(accepted.run)).state is RunState.EXPIRED


async def test_dead_workers_are_counted_apart(published: Harness):
    """Failures do not use up the attempts that workers may die in, nor the other way round."""
    accepted = await published.accept(retry=RETRY, max_attempts=2)
    (held,) = await published.claim()
    await failing(published, held)
    for _ in range(2):
        await published.age(20)
        assert len(await published.claim()) == 1
        await published.age(LEASE_SECONDS + 1)
        await published.clock.rescue()

    run = await published.run(accepted.run)
    assert (run.state, run.reason, run.attempt, run.failures) == (
        RunState.DEAD,
        Reason.TOO_MANY_ATTEMPTS,
        3,
        1,
    )


async def test_a_cancelled_run_is_not_tried_again(published: Harness):
    """A person's wish ends it."""
    accepted = await published.accept(retry=RETRY)
    (held,) = await published.claim()
    await published.runs.cancel("acme", accepted.run, "bob", "r")

    await failing(published, held)

    assert (await published.run(accepted.run)).state is RunState.DEAD


async def test_a_success_after_failures_has_its_output(published: Harness):
    """What was tried again succeeds like any other."""
    accepted = await published.accept(retry=RETRY)
    (held,) = await published.claim()
    await failing(published, held)
    await published.age(11)
    (again,) = await published.claim()

    await published.hand_in(finish(again, output=msgspec.Raw(b"1")))

    run = await published.run(accepted.run)
    assert (run.state, run.output, run.failures) == (RunState.SUCCEEDED, b"1", 1)
