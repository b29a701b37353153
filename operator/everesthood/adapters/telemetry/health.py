"""`/metrics`, `/healthz` and `/readyz` of a process, on a port of their own.

Health answers whether this process makes progress; readiness whether it can serve. Each check is a
name and a function that returns None when all is well, and else says what is wrong.
"""

import asyncio
from collections.abc import Callable, Mapping

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

Check = Callable[[], str | None]
_MAX_REQUEST = 8192
_READ_SECONDS = 5


async def serve_health(
    port: int, *, live: Mapping[str, Check], ready: Mapping[str, Check], host: str = ""
) -> asyncio.Server:
    """Start serving on `port` (0 chooses one) and return the server, to be closed by the caller."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_READ_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_respond(head[:_MAX_REQUEST].split(b" ", 2)[1:2], live, ready))
            await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a half-open or hostile connection is nobody's news
        finally:
            writer.close()

    return await asyncio.start_server(answer, host or None, port, limit=_MAX_REQUEST)


def _respond(target: list[bytes], live: Mapping[str, Check], ready: Mapping[str, Check]) -> bytes:
    path = target[0].split(b"?", 1)[0] if target else b""
    if path == b"/metrics":
        return _http(200, CONTENT_TYPE_LATEST, generate_latest())
    checks = {b"/healthz": live, b"/readyz": ready}.get(path)
    if checks is None:
        return _http(404, "text/plain", b"not found\n")
    wrong = [f"{name}: {said}" for name, check in checks.items() if (said := check())]
    body = ("\n".join(wrong) or "ok") + "\n"
    return _http(503 if wrong else 200, "text/plain; charset=utf-8", body.encode())


def _http(status: int, content_type: str, body: bytes) -> bytes:
    phrase = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}[status]
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
