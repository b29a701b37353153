"""What becomes of a run after each thing that can happen to it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.apis.reasons import Reason
from everesthood.domain.runs import (
    FINAL,
    Next,
    RunRetry,
    RunState,
    after_cancel,
    after_deadline,
    after_failure,
    after_finish,
    after_lease_expiry,
    after_removal,
    deadline,
    retry_pause,
)

NOW = datetime(2026, 11, 25, tzinfo=UTC)
LATER = NOW + timedelta(seconds=1)


@pytest.mark.parametrize(
    ("outcome", "reason", "cancelled", "state", "kept"),
    [
        ("succeeded", "", False, RunState.SUCCEEDED, Reason.SUCCEEDED),
        ("succeeded", "StepFailed", True, RunState.SUCCEEDED, Reason.SUCCEEDED),
        ("failed", "StepTimedOut", False, RunState.DEAD, Reason.STEP_TIMED_OUT),
        ("failed", "", False, RunState.DEAD, Reason.STEP_FAILED),
        ("failed", "made up", False, RunState.DEAD, Reason.STEP_FAILED),
        ("failed", "RunTimedOut", False, RunState.EXPIRED, Reason.RUN_TIMED_OUT),
        ("failed", "StepFailed", True, RunState.DEAD, Reason.STEP_FAILED),
        ("ambiguous", "", False, RunState.AMBIGUOUS, Reason.OUTCOME_UNKNOWN),
        ("ambiguous", "", True, RunState.AMBIGUOUS, Reason.OUTCOME_UNKNOWN),
        ("cancelled", "", True, RunState.CANCELLED, Reason.CANCELLED),
        ("cancelled", "", False, RunState.CANCELLED, Reason.CANCELLED),
        ("released", "", True, RunState.CANCELLED, Reason.CANCELLED),
        ("released", "", False, RunState.QUEUED, None),
    ],
)
def test_a_hand_in_has_one_meaning(outcome, reason, cancelled, state, kept):
    """Each outcome leads to one state with one reason."""
    becomes = after_finish(outcome, reason, "said", cancel_requested=cancelled)

    assert (becomes.state, becomes.reason) == (state, kept)
    assert becomes.attempt_change == (-1 if state is RunState.QUEUED else 0)


@pytest.mark.parametrize(
    ("attempt", "cancelled", "ends", "state", "reason"),
    [
        (1, False, LATER, RunState.QUEUED, Reason.LEASE_LOST),
        (2, False, None, RunState.QUEUED, Reason.LEASE_LOST),
        (3, False, LATER, RunState.DEAD, Reason.TOO_MANY_ATTEMPTS),
        (4, False, LATER, RunState.DEAD, Reason.TOO_MANY_ATTEMPTS),
        (1, False, NOW, RunState.EXPIRED, Reason.RUN_TIMED_OUT),
        (3, False, NOW, RunState.EXPIRED, Reason.RUN_TIMED_OUT),
        (3, True, NOW, RunState.CANCELLED, Reason.CANCELLED),
        (1, True, LATER, RunState.CANCELLED, Reason.CANCELLED),
    ],
)
def test_a_silent_worker_loses_its_run(attempt, cancelled, ends, state, reason):
    """A cancellation goes before the deadline, the deadline before the count of attempts."""
    becomes = after_lease_expiry(
        attempt=attempt, max_attempts=3, cancel_requested=cancelled, deadline_at=ends, now=NOW
    )

    assert (becomes.state, becomes.reason) == (state, reason)


FAILED = Next(state=RunState.DEAD, reason=Reason.STEP_FAILED, message="Busy.", failure_change=1)


@pytest.mark.parametrize(
    ("failures", "pause", "left", "state"),
    [
        (0, 5.0, 60.0, RunState.QUEUED),
        (1, 5.0, 60.0, RunState.QUEUED),
        (2, 5.0, 60.0, RunState.DEAD),
        (0, 60.0, 60.0, RunState.DEAD),
        (0, 61.0, 60.0, RunState.DEAD),
        (0, 61.0, None, RunState.QUEUED),
    ],
)
def test_a_failed_attempt_is_tried_again_while_it_may(failures, pause, left, state):
    """As often as the template says, and only where it could start before the run's deadline."""
    becomes = after_failure(
        FAILED,
        failures=failures,
        retry=RunRetry(max_attempts=3),
        pause_seconds=pause,
        seconds_left=left,
    )

    assert (becomes.state, becomes.reason, becomes.failure_change) == (state, Reason.STEP_FAILED, 1)
    assert becomes.pause_seconds == (pause if state is RunState.QUEUED else 0.0)


@pytest.mark.parametrize(
    ("failures", "asked", "shortest", "longest"),
    [(0, None, 0, 10), (1, None, 0, 20), (2, None, 0, 30), (400, None, 0, 30), (2, 5.0, 5, 15), (0, 9e9, 3600, 3610)],
)  # fmt: skip
def test_pauses_grow_and_spread(failures, asked, shortest, longest):
    """Full jitter below a bound that doubles up to its cap; who was asked to wait comes a little later."""
    retry = RunRetry(max_attempts=9, initial_seconds=10, max_seconds=30)

    assert retry_pause(retry, failures, asked, chance=0.0) == shortest
    assert retry_pause(retry, failures, asked, chance=1.0) == longest


@pytest.mark.parametrize("state", list(RunState))
def test_a_cancellation_ends_what_waits_and_marks_what_runs(state):
    """What is over stays; a running run stays running until its worker has stopped."""
    becomes = after_cancel(state, "bob")

    if state in FINAL:
        assert becomes is None
    elif state is RunState.RUNNING:
        assert becomes == Next(state=state, reason=Reason.CANCELLED, message="Cancelled by bob.")
    else:
        assert becomes == Next(state=RunState.CANCELLED, reason=Reason.CANCELLED, message="Cancelled by bob.")


@pytest.mark.parametrize("state", list(RunState))
def test_a_removal_is_a_cancellation_with_its_own_reason(state):
    """Runs of a deleted instance say so."""
    becomes, cancelled = after_removal(state), after_cancel(state, "x")

    assert (becomes is None) == (cancelled is None)
    if becomes is not None and cancelled is not None:
        assert (becomes.state, becomes.reason) == (cancelled.state, Reason.INSTANCE_DELETED)


def test_the_deadline_counts_from_the_first_start():
    """A run that never started has all of its time."""
    assert deadline(started_at=None, max_run_seconds=5) is None
    assert deadline(started_at=NOW, max_run_seconds=1) == LATER
    assert after_deadline().state is RunState.EXPIRED


@given(
    outcome=st.sampled_from(["succeeded", "failed", "ambiguous", "cancelled", "released"]),
    reason=st.text(max_size=20),
    cancelled=st.booleans(),
)
def test_a_handed_in_run_never_stays_running(outcome, reason, cancelled):
    """Whatever a worker says, its run is over or waits for the next attempt, with a reason if it is over."""
    becomes = after_finish(outcome, reason, "", cancel_requested=cancelled)

    assert becomes.state in FINAL | {RunState.QUEUED}
    assert (becomes.reason is not None) == (becomes.state in FINAL)


@given(attempt=st.integers(1, 30), most=st.integers(1, 20), cancelled=st.booleans(), late=st.booleans())
def test_a_rescued_run_starts_again_only_with_attempts_left(attempt, most, cancelled, late):
    """No run starts more often than the template allows."""
    becomes = after_lease_expiry(
        attempt=attempt,
        max_attempts=most,
        cancel_requested=cancelled,
        deadline_at=NOW if late else LATER,
        now=NOW,
    )

    may_go_on = attempt < most and not cancelled and not late
    assert (becomes.state is RunState.QUEUED) == may_go_on
