"""The gateway as a bare ASGI application: a framework would cost more than the work it does."""

import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

from everesthood import __version__
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Invalid, NotFound, Refused
from everesthood.domain.run_ids import RANDOM_BYTES, uuid7
from everesthood.entrypoints.gateway import metrics, problems
from everesthood.entrypoints.gateway.routes import Call, Route
from everesthood.usecases.ports.record import WorkerSeat

BODY_BYTES: Final = 8 * 1024 * 1024
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REVISION: Final = b"x-everesthood-revision"
_CLIENT_LEFT: Final = 499
_UNKNOWN_FIELD: Final = re.compile(r"contains unknown field `([^`]{1,64})`")
_encode: Final = msgspec.json.Encoder().encode

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SeatOf = Callable[[str, str | None], Awaitable[WorkerSeat]]

log = structlog.get_logger("everesthood.gateway")


class ClientLeft(Exception):  # noqa: N818 - nothing is wrong
    """The client closed the connection before its request was complete."""


class Gateway:
    """Reads a request, seats the worker, answers."""

    def __init__(self, *, seat: SeatOf, routes: Mapping[tuple[str, str], Route]) -> None:
        """Keep who tells workers apart and what each route does."""
        self._seat = seat
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        started = time.perf_counter()
        headers = {name.lower(): value for name, value in scope["headers"]}
        request_id = _request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            status = await self._serve(scope, receive, send, headers=headers, request_id=request_id)
        route = scope["path"] if (scope["method"], scope["path"]) in self._routes else "other"
        metrics.CALLS.labels(route, str(status)).inc()
        metrics.SECONDS.labels(route).observe(time.perf_counter() - started)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, *, headers: Mapping[bytes, bytes], request_id: str
    ) -> int:
        extra: problems.Headers = []
        kind = b"application/json"
        try:
            status, answer = 200, await self._answer(scope, receive, headers, request_id)
        except ClientLeft:
            return _CLIENT_LEFT
        except EveresthoodError as error:
            status, kind = problems.status_of(error), b"application/problem+json"
            answer = problems.body(status, error.reason, error.message, request_id)
            extra = problems.headers_of(error)
            log.info("refused", route=scope["path"], status=status, reason=error.reason, detail=error.message)
        except Exception:
            log.exception("defect", route=scope["path"])
            status, kind = 500, b"application/problem+json"
            answer = problems.body(500, Reason.INTERNAL, "Something is wrong on our side.", request_id)
        head = [
            (b"content-type", kind),
            (b"content-length", str(len(answer)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-request-id", request_id.encode()),
            *extra,
        ]
        await send({"type": "http.response.start", "status": status, "headers": head})
        await send({"type": "http.response.body", "body": answer})
        return status

    async def _answer(
        self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes], request_id: str
    ) -> bytes:
        route = self._routes.get((scope["method"], scope["path"]))
        if route is None:
            raise NotFound(f"There is no {scope['method']} {scope['path']}.", Reason.BAD_REQUEST)
        # Who it is comes before what it says: a stranger's body is not even read.
        seat = await self._seat(_token(headers), _text(headers, _REVISION))
        body = await _read(receive, headers)
        message = _decoded(route, body)
        return _encode(await route.serve(Call(seat=seat, message=message, request_id=request_id)))


def _request_id(given: str) -> str:
    if _REQUEST_ID.fullmatch(given):
        return given
    return str(uuid7(now=datetime.now(UTC), randomness=os.urandom(RANDOM_BYTES)))


def _token(headers: Mapping[bytes, bytes]) -> str:
    scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")


async def _read(receive: Receive, headers: Mapping[bytes, bytes]) -> bytes:
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > BODY_BYTES:
        raise _too_large()
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES:
            raise _too_large()
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large() -> Refused:
    return Refused(f"The request body is over {BODY_BYTES} bytes.", Reason.TOO_LARGE)


def _decoded(route: Route, body: bytes) -> msgspec.Struct | None:
    if route.decoder is None:
        return None
    try:
        return route.decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if found := _UNKNOWN_FIELD.search(str(error)):
            what = f"This gateway, version {__version__}, does not know the field {found[1]!r}"
            said = f"{what}: the worker is newer. It is taken once the gateway is upgraded."
            raise Invalid(said, Reason.GATEWAY_IS_OLDER) from None
        raise Invalid(f"The request cannot be read: {error}.") from None
