"""Refusals as RFC 9457 problem+json: the one place that turns errors into HTTP statuses."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from everesthood.apis.reasons import Reason
from everesthood.domain import errors
from everesthood.domain.errors import EveresthoodError, Invalid, Problem, Unavailable

MEDIA_TYPE: Final = "application/problem+json"
_STATUSES: Final[Mapping[type[EveresthoodError], int]] = {
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.Unavailable: 503,
}
_HTTP_REASONS: Final = {413: Reason.TOO_LARGE}
_log = structlog.get_logger(__name__)


class TooLarge(errors.Refused):
    """The request body is over the cap."""

    reason = Reason.TOO_LARGE


class WrongMedia(errors.Refused):
    """The request body is not JSON as it is."""


def register(app: FastAPI) -> None:
    """Let every error leave the application as a problem."""
    app.add_exception_handler(EveresthoodError, ours)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, defect)


def problem(
    request_id: str,
    status: int,
    reason: Reason,
    detail: str,
    *,
    problems: Sequence[Problem] = (),
) -> dict[str, object]:
    """Return the body of a refusal."""
    return {
        "type": f"urn:everesthood:reason:{reason}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "reason": reason,
        "detail": detail,
        "requestId": request_id,
        "problems": [{"pointer": one.path, "detail": one.message} for one in problems],
    }


def of_error(request_id: str, error: EveresthoodError) -> tuple[int, dict[str, object]]:
    """Return the status and the body that one of our errors stands for."""
    status = _status(error)
    found = error.problems if isinstance(error, Invalid) else ()
    return status, problem(request_id, status, error.reason, error.message, problems=found)


def _status(error: EveresthoodError) -> int:
    if isinstance(error, TooLarge):
        return 413
    if isinstance(error, WrongMedia):
        return 415
    return next((code for kind, code in _STATUSES.items() if isinstance(error, kind)), 500)


async def ours(request: Request, error: Exception) -> Response:
    """Return the answer to one of our errors."""
    assert isinstance(error, EveresthoodError)  # noqa: S101 - registered for this class
    status, body = of_error(request.state.request_id, error)
    headers = {}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="everesthood"'
    _log.info("refused", status=status, reason=str(error.reason), detail=error.message)
    return _response(status, body, headers)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    found = [_field(one["loc"], one["msg"]) for one in error.errors()]
    sentence = f"The request breaks a rule: {found[0].path} {found[0].message}."
    body = problem(request.state.request_id, 422, Reason.BAD_REQUEST, sentence, problems=found)
    return _response(422, body, {})


def _field(location: Sequence[object], message: str) -> Problem:
    return Problem("".join(f"/{part}" for part in location), message, Reason.BAD_REQUEST)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    reason = _HTTP_REASONS.get(error.status_code, Reason.BAD_REQUEST)
    detail = f"{request.method} {request.url.path}: {error.detail}."
    body = problem(request.state.request_id, error.status_code, reason, detail)
    return _response(error.status_code, body, dict(error.headers or {}))


async def defect(request: Request, _: Exception) -> Response:
    """Return the answer to what should not have happened."""
    # The error goes on from here to the middleware, which logs it.
    detail = "Something is wrong on our side; the log has it under the request's id."
    return _response(500, problem(request.state.request_id, 500, Reason.INTERNAL, detail), {})


def _response(status: int, body: Mapping[str, object], headers: Mapping[str, str]) -> Response:
    return Response(msgspec.json.encode(body), status, dict(headers), MEDIA_TYPE)
