"""The webhook as a plain ASGI application: three routes, a cap on every body, no way to crash it."""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from prometheus_client import Counter, Histogram

from everesthood.domain.errors import EveresthoodError
from everesthood.domain.manifests import Verdict
from everesthood.entrypoints.admission import reviews
from everesthood.usecases.review_manifest import Review

MAX_BODY: Final = 3_145_728
Reviewer = Callable[[Review], Awaitable[Verdict]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REVIEWS: Final = Counter(
    "everesthood_admission_reviews", "Writes judged, by kind and verdict.", ["kind", "verdict"]
)
SECONDS: Final = Histogram("everesthood_admission_review_seconds", "Time that a verdict took.")
_KINDS: Final = frozenset({"AgentTemplate", "AgentInstance", "AgentCredential"})

_log = structlog.get_logger(__name__)


class TooLarge(ValueError):  # noqa: N818 - reads as what it is
    """A body over the cap."""


class App:
    """Answers the API server."""

    def __init__(self, reviewer: Reviewer) -> None:
        """Judge by this function."""
        self._review = reviewer

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        match scope["method"], scope["path"]:
            case "GET" | "HEAD", "/healthz" | "/readyz":
                await _reply(send, HTTPStatus.OK, b"ok\n")
            case "POST", "/validate":
                await self._validate(receive, send)
            case _, "/validate" | "/healthz" | "/readyz":
                await _reply(send, HTTPStatus.METHOD_NOT_ALLOWED, b"method not allowed\n")
            case _:
                await _reply(send, HTTPStatus.NOT_FOUND, b"not found\n")

    async def _validate(self, receive: Receive, send: Send) -> None:
        try:
            uid, review = reviews.read(await _body(receive))
        except TooLarge as error:
            await _reply(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{error}\n".encode())
        except reviews.Unreadable as error:
            await _reply(send, HTTPStatus.BAD_REQUEST, f"{error}\n".encode())
        else:
            answer = await self._answer(uid, review)
            await _reply(send, HTTPStatus.OK, answer, content_type=b"application/json")

    async def _answer(self, uid: str, review: Review) -> bytes:
        started = time.perf_counter()
        kind = review.kind if review.kind in _KINDS else "other"
        try:
            verdict = await self._review(review)
            answer = reviews.answer(uid, verdict)
        except EveresthoodError as error:
            REVIEWS.labels(kind, "unavailable").inc()
            _log.warning("review impossible", request_id=uid, reason=error.reason, error=error.message)
            message = f"cannot be checked right now, try again: {error.message} (request id {uid})"
            return reviews.refusal(uid, message, HTTPStatus.SERVICE_UNAVAILABLE)
        except Exception:  # noqa: BLE001 - whatever it is, the write is refused and the process lives
            REVIEWS.labels(kind, "error").inc()
            _log.exception("review failed", request_id=uid, kind=kind)
            message = f"internal error, request id {uid}"
            return reviews.refusal(uid, message, HTTPStatus.INTERNAL_SERVER_ERROR)
        REVIEWS.labels(kind, "refused" if verdict.problems else "allowed").inc()
        SECONDS.observe(time.perf_counter() - started)
        return answer


async def _body(receive: Receive) -> bytes:
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise reviews.Unreadable("the caller went away")
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise TooLarge(f"the body is larger than {MAX_BODY} bytes")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _reply(
    send: Send, status: HTTPStatus, body: bytes, *, content_type: bytes = b"text/plain; charset=utf-8"
) -> None:
    headers = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
