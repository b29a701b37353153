"""The outside world: a server that notes each call which an agent's step makes, and forgets none."""

import asyncio
import json
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tests.support.valkey import free_port

_REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)

WISH_SECONDS = 0.5


@dataclass(slots=True)
class Ledger:
    """Calls by (run, step), each with the attempt that made it and when."""

    port: int = field(default_factory=free_port)
    calls: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    refusals: int = 0
    """How many calls of a first step are refused, as by a provider whom there are too many of."""
    silences: int = 0
    """How many calls that must not be repeated are noted and left without an answer."""
    wish_seconds: float = WISH_SECONDS
    """How long the run takes that a model wants."""
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
            _, run, attempt, step, seconds, *_ = head.split(" ", 2)[1].split("/")
            if step == "first" and self.refusals > 0:
                self.refusals -= 1
                writer.write(_REFUSAL)
                await writer.drain()
                writer.close()
                return
            body = b""
            if step == "model":
                step, body = _said_by_model(await _body(reader, head), self.wish_seconds)
            self.calls[run, step].append((int(attempt), time.time()))
            await asyncio.sleep(float(seconds))
            if step == "once" and self.silences > 0:
                self.silences -= 1
                writer.close()
                return
            if not step.startswith("calls/"):
                body = str(len(self.calls[run, step])).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            await writer.drain()
        writer.close()


async def _body(reader: asyncio.StreamReader, head: str) -> Any:
    (length,) = (line for line in head.splitlines() if line.lower().startswith("content-length:"))
    return json.loads(await reader.readexactly(int(length.partition(":")[2])))


def _said_by_model(question: Any, seconds: float) -> tuple[str, bytes]:
    """Return which turn it is, and what a model says that calls the helper once and is content with its answer."""
    wish = {"seconds": seconds, "once": False, "asks": False, "calls": False}
    asked = {"name": "help", "arguments": json.dumps(wish)}
    answered = any(message["role"] == "tool" for message in question["messages"])
    said = {"content": "done"} if answered else {"tool_calls": [{"id": "1", "function": asked}]}
    return f"calls/turn{2 if answered else 1}", json.dumps({"choices": [{"message": said}]}).encode()
