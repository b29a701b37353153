"""The least of an HTTP client and of a Redis client: thousands of callers must fit beside what they call.

Both keep one connection and speak it by hand: HTTP/1.1 with a Content-Length, RESP with AUTH and BRPOP.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Self, cast

from everesthood.apis.wire import QueueLease

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class _Line(asyncio.Protocol):
    """One connection, and its end."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Close the connection, and return when it is closed."""
        if self._transport is not None:
            self._transport.close()
            await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one, but not by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed.set_result(None)


class HttpLine(_Line):
    """One kept connection to a server on this machine: one request at a time."""

    def __init__(self, port: int, headers: Mapping[str, str]) -> None:
        super().__init__()
        said = {"Host": f"127.0.0.1:{port}", "Content-Type": "application/json", **headers}
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in said.items()).encode()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, port: int, token: str, **headers: str) -> Self:
        """Connect; every request carries the token and the headers."""
        said = {name.replace("_", "-"): value for name, value in headers.items()}
        line = cls(port, {"Authorization": f"Bearer {token}", **said})
        await asyncio.get_running_loop().create_connection(lambda: line, "127.0.0.1", port)
        return line

    async def ask(self, method: str, path: str, body: bytes = b"", headers: bytes = b"") -> tuple[int, bytes]:
        """Return status and body of the answer."""
        assert self._transport is not None
        assert self._answer is None, "one request at a time"
        self._answer = asyncio.get_running_loop().create_future()
        start = f"{method} {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n".encode()
        self._transport.write(b"%b%b%b\r\n%b" % (start, self._headers, headers, body))
        return await self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEAD_END)
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end)
        assert length is not None, bytes(self._received[:end])
        start = end + len(_HEAD_END)
        if len(self._received) - start < int(length.group(1)):
            return
        status, body = int(self._received[9:12]), bytes(self._received[start:])
        self._received.clear()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))


class BellLine(_Line):
    """One connection that waits at a worker's queue, with that worker's own user and rights."""

    def __init__(self, lease: QueueLease, on_bell: Callable[[], None]) -> None:
        super().__init__()
        self._lease = lease
        self._on_bell = on_bell
        self._listens: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refusals: list[bytes] = []

    @classmethod
    async def open(cls, lease: QueueLease, on_bell: Callable[[], None]) -> Self:
        """Connect, say who it is, and listen."""
        line = cls(lease, on_bell)
        await asyncio.get_running_loop().create_connection(lambda: line, lease.host, lease.port)
        await line._listens
        return line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self._transport is not None
        self._transport.write(_command("AUTH", self._lease.user, self._lease.password))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._received.endswith(b"\r\n"):
            return
        if self._received.startswith(b"-"):
            self.refusals.append(bytes(self._received))
            if not self._listens.done():
                self._listens.set_exception(PermissionError(self.refusals[-1]))
            return
        # Of a popped message: *2, $n, key, $n, message. One BRPOP is under way, so nothing follows it.
        if self._received.startswith(b"*2\r\n") and self._received.count(b"\r\n", 0) < 5:
            return
        rang = self._received.startswith(b"*2\r\n")
        self._received.clear()
        self._listen()
        if rang:
            self._on_bell()
        elif not self._listens.done():
            self._listens.set_result(None)

    def _listen(self) -> None:
        assert self._transport is not None
        self._transport.write(_command("BRPOP", self._lease.prefix + self._lease.queue, "0"))


def _command(*words: str) -> bytes:
    parts = [f"*{len(words)}\r\n"] + [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return "".join(parts).encode()
