"""Around every request: its id, its size, its headers, its log line and its measurements."""

import os
import re
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everesthood.apis.reasons import Reason
from everesthood.domain.run_ids import RANDOM_BYTES, uuid7_text
from everesthood.entrypoints.web.problems import MEDIA_TYPE, problem
from everesthood.entrypoints.web.protocol import WHOLE, Pair, lines

BODY_BYTES: Final = 1_048_576
REQUESTS: Final = Counter(
    "everesthood_http_requests", "Requests by route, method and status.", ["route", "method", "code"]
)
SECONDS: Final = Histogram(
    "everesthood_http_request_duration_seconds",
    "Time until the answer's head, by route and method.",
    ["route", "method"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_HEADERS: Final[tuple[Pair, ...]] = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-frame-options", b"DENY"),
)
_OURS: Final = frozenset({b"x-request-id", *(name for name, _ in _HEADERS)})
_POLICY: Final = b"content-security-policy"
_DEFAULT_POLICY: Final = (_POLICY, b"default-src 'none'; frame-ancestors 'none'")
_USUAL_LINES: Final = lines((*_HEADERS, _DEFAULT_POLICY))
_TOO_LARGE: Final = f"The request body is over {BODY_BYTES} bytes."
_CLIENT_LEFT: Final = 499
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger("everesthood.web")
_seconds: Final[dict[tuple[str, str], Histogram]] = {}
_requests: Final[dict[tuple[str, str, int], Counter]] = {}
"""The series by their labels: the library's own way to them takes a lock and a while."""


class Around:
    """Pure ASGI, since a wrapper that buffers would break log streams."""

    def __init__(self, app: ASGIApp) -> None:
        """Wrap the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given, length = _id_and_length(scope["headers"])
        request_id = _request_id(given)
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, send, request_id)
        bound = structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            if length > BODY_BYTES:
                await exchange.refuse(413, Reason.TOO_LARGE, _TOO_LARGE)
            else:
                await self._app(scope, receive, exchange.send)
        except Exception:
            _log.exception("defect")
            if not exchange.is_complete:
                raise  # the server cuts the connection, so that nobody takes half for the whole
        finally:
            exchange.close()
            structlog.contextvars.reset_contextvars(**bound)


class _Exchange:
    """One request and what becomes of it."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id.encode()
        self._started = time.perf_counter()
        self._status = _CLIENT_LEFT
        self.is_complete = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == WHOLE:
            await self._answer(message)
            return
        if kind == "http.response.start":
            self._begin(message["status"])
            message["headers"] = self._decorated(message.get("headers", ()))
        await self._send(message)
        if kind == "http.response.body" and not message.get("more_body"):
            self.is_complete = True

    async def _answer(self, message: Message) -> None:
        """Send head and body at once where the server can."""
        offered = self._scope.get("extensions", {}).get(WHOLE)
        status, headers, body = message["status"], message["headers"], message["body"]
        own = b"x-request-id: %b\r\n%b" % (self._request_id, _USUAL_LINES)
        if offered is not None and offered["send"](status, headers, own, body):
            self._begin(status)
            self.is_complete = True
            return
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _begin(self, status: int) -> None:
        self._status = status
        labels = self._labels()
        found = _seconds.get(labels)
        if found is None:
            found = _seconds[labels] = SECONDS.labels(*labels)
        found.observe(time.perf_counter() - self._started)

    async def refuse(self, status: int, reason: Reason, detail: str) -> None:
        body = msgspec.json.encode(problem(self._request_id.decode(), status, reason, detail))
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _decorated(self, given: Iterable[Pair]) -> list[Pair]:
        headers = [pair for pair in given if pair[0] not in _OURS]
        if all(name != _POLICY for name, _ in headers):
            headers.append(_DEFAULT_POLICY)
        return [*headers, (b"x-request-id", self._request_id), *_HEADERS]

    def _labels(self) -> tuple[str, str]:
        # The route's pattern, never its path: a path has ids, and anybody can invent one.
        route = self._scope.get("route")
        method = self._scope["method"]
        return getattr(route, "path", "none"), method if method in _METHODS else "other"

    def close(self) -> None:
        route, method = self._labels()
        key = (route, method, self._status)
        found = _requests.get(key)
        if found is None:
            found = _requests[key] = REQUESTS.labels(route, method, str(self._status))
        found.inc()
        seconds = time.perf_counter() - self._started
        _log.info("request", route=route, method=method, status=self._status, seconds=round(seconds, 4))


def _request_id(given: bytes) -> str:
    text = given.decode("latin-1")
    if _REQUEST_ID.fullmatch(text):
        return text
    return uuid7_text(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))


def _id_and_length(headers: Iterable[Pair]) -> tuple[bytes, int]:
    """Return the request's id, empty where it has none, and how long it says that its body is."""
    given, length = b"", b"0"
    for name, value in headers:
        if name == b"x-request-id":
            given = given or value
        elif name == b"content-length":
            length = value
    return given, int(length) if length.isdigit() else 0
