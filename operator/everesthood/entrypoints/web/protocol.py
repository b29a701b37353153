"""uvicorn's HTTP protocol and two things more: a whole body is read at once, a whole answer written at once.

A timer and an event for the body, head and body of the answer as two messages, each header looked at by two
regular expressions: for a small request that takes longer than all that is between.
"""

import re
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

WHOLE: Final = "everesthood.whole"
"""Name of the extension in a scope, and of the message that asks for it."""
_BROKEN: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

Pair = tuple[bytes, bytes]


class Protocol(HttpToolsProtocol):
    """Offers the extension to the application."""

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: "ASGI3Application") -> None:
        cycle.scope["extensions"] = {WHOLE: {"body": partial(_body, cycle), "send": partial(_answer, cycle)}}
        super()._start_asgi_task(cycle, app)


def lines(headers: Iterable[Pair]) -> bytes:
    """Return headers as they are sent.

    Raises:
        ValueError: one would end its line before its end.
    """
    found = []
    for name, value in headers:
        if _BROKEN.search(value):
            raise ValueError(f"the header {name.decode()} has a value that no header can have")
        found.append(b"%b: %b\r\n" % (name, value))
    return b"".join(found)


def _body(cycle: RequestResponseCycle) -> bytes | None:
    """Return the request's body if all of it has come."""
    return None if cycle.more_body else bytes(cycle.body)


def _answer(
    cycle: RequestResponseCycle, status: int, headers: Iterable[Pair], further: bytes, body: bytes
) -> bool:
    """Write status, headers, further lines of the head and the body; return whether it could."""
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused or not cycle.keep_alive:
        return False  # the usual way knows what to do
    head = lines((*cycle.default_headers, *headers))
    cycle.transport.write(b"".join((STATUS_LINE[status], head, further, b"\r\n", body)))
    cycle.waiting_for_100_continue = False
    cycle.response_started = cycle.response_complete = True
    cycle.message_event.set()
    cycle.on_response()
    return True
