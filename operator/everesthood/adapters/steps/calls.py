"""What http and llm steps share: the key that makes a repeat harmless, and how to read a refusal."""

import hashlib
from datetime import UTC, datetime
from typing import Final

from everesthood.domain.attempts import held_seconds, retry_after_seconds
from everesthood.domain.errors import KeyHeld, OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer

IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
_BUSY: Final = frozenset({408, 425, 429, 503})
UNKNOWN: Final = frozenset({502, 504})
_SERVER: Final = 500


def idempotency_key(run: str, step: str) -> str:
    """Return the same key for each try of the same step of the same run, on any worker."""
    return hashlib.sha256(f"{run}:{step}".encode()).hexdigest()


def refused(answer: Answer, what: str, *, may_repeat: bool, credential: str | None = None) -> StepFailed:
    """Return the failure that a status stands for; the body is never part of it.

    Where a credential was sent, an answer that asks to wait holds it, and the step did not happen.

    A gateway's 502 or 504 does not tell whether the server behind it acted; neither does a 500,
    but then the server itself gave an answer, so the call is over.
    """
    said = f"{what} answered {answer.status}"
    header, now = answer.headers.get("retry-after"), datetime.now(UTC)
    seconds = None if credential is None else held_seconds(answer.status, header, now)
    if seconds is not None:
        return KeyHeld(f"{said} and asked to wait {seconds:.0f} s", retry_after_seconds=seconds)
    after = retry_after_seconds(header, now)
    if answer.status in UNKNOWN:
        return OutcomeUnknown(said, transient=True, retry_after_seconds=after)
    transient = answer.status in _BUSY or (answer.status >= _SERVER and may_repeat)
    return StepFailed(said, transient=transient, retry_after_seconds=after)
