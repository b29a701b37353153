"""Around every request: its id, its size, its headers, its log line and its measurements."""

import os
import re
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from everesthood.apis.reasons import Reason
from everesthood.domain.run_ids import RANDOM_BYTES, uuid7
from everesthood.entrypoints.web.problems import MEDIA_TYPE, problem

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
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Strict-Transport-Security": "max-age=31536000",
    "X-Frame-Options": "DENY",
}
_DEFAULT_POLICY: Final = "default-src 'none'; frame-ancestors 'none'"
_TOO_LARGE: Final = f"The request body is over {BODY_BYTES} bytes."
_CLIENT_LEFT: Final = 499
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger("everesthood.web")


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
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        exchange = _Exchange(scope, send, request_id)
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if _declared_length(headers) > BODY_BYTES:
                    await exchange.refuse(413, Reason.TOO_LARGE, _TOO_LARGE)
                else:
                    await self._app(scope, receive, exchange.send)
            except Exception:
                _log.exception("defect")
                if not exchange.is_complete:
                    raise  # the server cuts the connection, so that nobody takes half for the whole
            finally:
                exchange.close()


class _Exchange:
    """One request and what becomes of it."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._started = time.perf_counter()
        self._status = _CLIENT_LEFT
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._decorate(message)
            SECONDS.labels(*self._labels()).observe(time.perf_counter() - self._started)
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.is_complete = True

    async def refuse(self, status: int, reason: Reason, detail: str) -> None:
        body = msgspec.json.encode(problem(self._request_id, status, reason, detail))
        headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def _decorate(self, message: MutableMapping[str, Any]) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self._request_id
        for name, value in _HEADERS.items():
            headers[name] = value
        headers.setdefault("Content-Security-Policy", _DEFAULT_POLICY)

    def _labels(self) -> tuple[str, str]:
        # The route's pattern, never its path: a path has ids, and anybody can invent one.
        route = self._scope.get("route")
        method = self._scope["method"]
        return getattr(route, "path", "none"), method if method in _METHODS else "other"

    def close(self) -> None:
        route, method = self._labels()
        REQUESTS.labels(route, method, str(self._status)).inc()
        seconds = time.perf_counter() - self._started
        _log.info("request", route=route, method=method, status=self._status, seconds=round(seconds, 4))


def _request_id(given: str) -> str:
    if _REQUEST_ID.fullmatch(given):
        return given
    return str(uuid7(now=datetime.now(UTC), randomness=os.urandom(RANDOM_BYTES)))


def _declared_length(headers: Headers) -> int:
    length = headers.get("content-length", "0")
    return int(length) if length.isdigit() else 0
