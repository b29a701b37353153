"""What http and llm steps share: the key that makes a repeat harmless, and how to read a refusal."""

import hashlib
from datetime import UTC, datetime
from typing import Final

from everesthood.domain.attempts import retry_after_seconds
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
_BUSY: Final = frozenset({408, 425, 429, 503})
UNKNOWN: Final = frozenset({502, 504})
_SERVER: Final = 500


def idempotency_key(run: str, step: str) -> str:
    """Return the same key for each try of the same step of the same run, on any worker."""
    return hashlib.sha256(f"{run}:{step}".encode()).hexdigest()


def refused(answer: Answer, what: str, *, may_repeat: bool) -> StepFailed:
    """Return the failure that a status stands for; the body is never part of it.

    A gateway's 502 or 504 does not tell whether the server behind it acted; neither does a 500,
    but then the server itself gave an answer, so the call is over.
    """
    said = f"{what} answered {answer.status}"
    after = retry_after_seconds(answer.headers.get("retry-after"), datetime.now(UTC))
    if answer.status in UNKNOWN:
        return OutcomeUnknown(said, transient=True, retry_after_seconds=after)
    transient = answer.status in _BUSY or (answer.status >= _SERVER and may_repeat)
    return StepFailed(said, transient=transient, retry_after_seconds=after)
