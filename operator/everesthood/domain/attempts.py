"""Whether and when a failed step is tried again."""

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.domain.steps import Retry, Step

LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
HOLDING: Final = frozenset({429, 503, 529})
"""Too many requests, unavailable, and overloaded as some model providers say it."""
UNNAMED_HOLD_SECONDS: Final = 2.0
"""After too many requests without a time: limits by the second are over, and a queue does not ask in turn."""
SHORT_HOLD_SECONDS: Final = 10.0
"""A held key is waited for in place for so long; for longer, the run goes back to its queue."""


def next_pause(step: Step, tries: int, failure: StepFailed, *, chance: random.Random) -> float | None:
    """Return how long to wait before trying the step again after `tries` tries; None to give up.

    Exponential with full jitter: a crowd of runs that failed together does not come back together.
    """
    retry = step.retry
    if retry is None or tries >= retry.max_attempts or not failure.transient:
        return None
    if isinstance(failure, OutcomeUnknown) and not step.may_repeat:
        return None
    wanted = failure.retry_after_seconds
    if wanted is not None:
        # Whoever is asked to come back later comes a little after that, not all at once.
        return min(wanted, LONGEST_RETRY_AFTER_SECONDS) + chance.uniform(0, retry.initial_seconds)
    return chance.uniform(0, longest_pause(retry, tries))


def longest_pause(retry: Retry, tries: int) -> float:
    """Return the upper end of the pause after `tries` tries."""
    return float(min(retry.max_seconds, retry.initial_seconds * 2 ** min(tries - 1, 30)))


def held_seconds(status: int, retry_after: str | None, now: datetime) -> float | None:
    """Return for how long an answer asks all who use its credential to wait; None when it asks nobody.

    Too many requests are too many for all who use the key: they hold it for a moment also without a time. Of
    a busy server that names none nobody can say when it is better: that is a failed try like any other.
    """
    if status not in HOLDING:
        return None
    seconds = retry_after_seconds(retry_after, now)
    if seconds is None:
        return UNNAMED_HOLD_SECONDS if status == HTTPStatus.TOO_MANY_REQUESTS else None
    return min(seconds, LONGEST_RETRY_AFTER_SECONDS) or None


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """Return how long a Retry-After header asks to wait: seconds or a date; None if it says nothing."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())
