"""The outside world: a server that notes each call which an agent's step makes, and forgets none."""

import asyncio
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.valkey import free_port

_REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


@dataclass(slots=True)
class Ledger:
    """Calls by (run, step), each with the attempt that made it and when."""

    port: int = field(default_factory=free_port)
    calls: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    refusals: int = 0
    """How many calls of a first step are refused, as by a provider whom there are too many of."""
    _server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request: POST /RUN/ATTEMPT/STEP/SECONDS, the last being how long the work takes."""
        # Cancelled is one that would still take its time when the stack is gone.
        with suppress(ConnectionError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            _, run, attempt, step, seconds = head.split(" ", 2)[1].split("/")
            if step == "first" and self.refusals > 0:
                self.refusals -= 1
                writer.write(_REFUSAL)
                await writer.drain()
                writer.close()
                return
            self.calls[run, step].append((int(attempt), time.time()))
            await asyncio.sleep(float(seconds))
            body = str(len(self.calls[run, step])).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()
        writer.close()
