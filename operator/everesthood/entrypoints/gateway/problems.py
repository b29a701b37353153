"""Refusals as RFC 9457 problem+json: the one place of the gateway that makes statuses of errors."""

from http import HTTPStatus
from typing import Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.domain import errors
from everesthood.domain.errors import EveresthoodError, Unauthenticated, Unavailable

Headers = list[tuple[bytes, bytes]]
_STATUSES: Final = (
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.Invalid, 422),
    (errors.Unavailable, 503),
    (errors.Refused, 400),  # the caller would repeat what only seems to be our fault
)
_BY_REASON: Final = {Reason.TOO_LARGE: 413}


def status_of(error: EveresthoodError) -> int:
    """Return the status that an error stands for."""
    if error.reason in _BY_REASON:
        return _BY_REASON[error.reason]
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def body(status: int, reason: str, detail: str, request_id: str) -> bytes:
    """Return the body of a refusal."""
    return msgspec.json.encode(
        {
            "type": f"urn:everesthood:reason:{reason}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "reason": reason,
            "detail": detail,
            "requestId": request_id,
        }
    )


def headers_of(error: EveresthoodError) -> Headers:
    """Return what the caller must know besides the body."""
    if isinstance(error, Unavailable):
        return [(b"retry-after", str(error.retry_after_seconds).encode())]
    if isinstance(error, Unauthenticated):
        return [(b"www-authenticate", b'Bearer realm="everesthood-gateway"')]
    return []
