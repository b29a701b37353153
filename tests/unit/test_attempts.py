"""When a failed step is tried again."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.domain.attempts import (
    LONGEST_RETRY_AFTER_SECONDS,
    longest_pause,
    next_pause,
    retry_after_seconds,
)
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.domain.steps import HttpStep, Retry, Step, TransformStep

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
RETRY = Retry(max_attempts=4, initial_seconds=2, max_seconds=5)
BUSY = StepFailed("busy", transient=True)


def reading(retry: Retry | None = RETRY) -> Step:
    return Step(name="a", transform=TransformStep(value="1"), retry=retry)


def paying() -> Step:
    return Step(name="a", http=HttpStep(url="https://x", method="POST"), retry=RETRY)


@pytest.mark.parametrize(
    ("step", "tries", "failure"),
    [
        (reading(None), 1, BUSY),
        (reading(), 4, BUSY),
        (reading(), 1, StepFailed("wrong for good")),
        (paying(), 1, OutcomeUnknown("gone", transient=True)),
    ],
    ids=["no retry", "tries used up", "final failure", "unknown outcome of what must not be repeated"],
)
def test_some_failures_end_a_step(step: Step, tries: int, failure: StepFailed) -> None:
    """A step is not tried again without `retry`, beyond maxAttempts, or where a repeat may do harm."""
    assert next_pause(step, tries, failure, chance=random.Random(1)) is None


def test_an_unknown_outcome_is_tried_again_where_a_repeat_does_no_harm() -> None:
    """A broken-off call of an idempotent step is repeated."""
    assert (
        next_pause(reading(), 1, OutcomeUnknown("gone", transient=True), chance=random.Random(1)) is not None
    )


@given(tries=st.integers(1, 3), seed=st.integers())
def test_pauses_are_spread_from_zero_to_the_cap(tries: int, seed: int) -> None:
    """Full jitter: a pause is anywhere between nothing and the doubled pause, capped at maxSeconds."""
    pause = next_pause(reading(), tries, BUSY, chance=random.Random(seed))

    assert pause is not None
    assert 0 <= pause <= min(5, 2 * 2 ** (tries - 1))


@given(tries=st.integers(1, 10_000))
def test_a_pause_never_exceeds_its_cap(tries: int) -> None:
    """However often a step fails, the pause stays within maxSeconds."""
    assert longest_pause(RETRY, tries) <= 5


def test_retry_after_is_honoured() -> None:
    """A server that names a time gets at least that long, and not a crowd in the same moment."""
    failure = StepFailed("later", transient=True, retry_after_seconds=30)

    pause = next_pause(reading(), 1, failure, chance=random.Random(1))

    assert pause is not None
    assert 30 <= pause <= 32


def test_a_server_cannot_put_a_step_off_for_ever() -> None:
    """A Retry-After of a year is cut to an hour."""
    failure = StepFailed("later", transient=True, retry_after_seconds=3e7)

    pause = next_pause(reading(), 1, failure, chance=random.Random(1))

    assert pause is not None
    assert pause <= LONGEST_RETRY_AFTER_SECONDS + 2


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("-5", None),
        ("Mon, 02 Mar 2026 12:01:00 GMT", 60.0),
        ("Mon, 02 Mar 2026 11:00:00 GMT", 0.0),
        ("Mon, 02 Mar 2026 12:00:30 -0000", 30.0),
        ("9" * 40, 999_999_999.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    """Both forms of the header are understood; nonsense means nothing."""
    assert retry_after_seconds(header, NOW) == seconds


@given(st.text(max_size=40))
def test_no_header_breaks_a_step(header: str) -> None:
    """Whatever a server writes into Retry-After, it is read or passed over."""
    found = retry_after_seconds(header, NOW)

    assert found is None or found >= 0


@given(st.integers(0, 86_400))
def test_a_date_is_as_good_as_seconds(seconds: int) -> None:
    """A date in the header means the same as the seconds until then."""
    at = (NOW + timedelta(seconds=seconds)).strftime("%a, %d %b %Y %H:%M:%S GMT")

    assert retry_after_seconds(at, NOW) == seconds
