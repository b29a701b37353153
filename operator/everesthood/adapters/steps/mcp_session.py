"""A small MCP client over streamable HTTP, every byte of it through the guarded client.

Protocol 2025-06-18: initialize, initialized, one request, good-bye. A server may answer with JSON or
with a stream of events, and is believed in nothing: not the id, not the shape, not the length.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from everesthood import __version__
from everesthood.adapters.steps.calls import IDEMPOTENCY_HEADER, refused
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer, Call, Outbound

PROTOCOL: Final = "2025-06-18"
KNOWN: Final = frozenset({PROTOCOL, "2025-03-26"})
"""Versions with this transport, which a server may choose instead of ours."""
_MAX_BYTES: Final = 4_194_304
_LONGEST_SESSION: Final = 1024
_GOODBYE_SECONDS: Final = 5.0
_SHOWN: Final = 500
_MOST_PAGES: Final = 20
_END_OF_EVENT: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Reply(msgspec.Struct):
    id: int | str | None = None
    result: dict[str, Any] | None = None
    error: _Error | None = None


class ToolInfo(msgspec.Struct, rename="camel"):
    """What a server says of one tool."""

    name: str
    description: str = ""
    input_schema: dict[str, Any] = {}
    output_schema: dict[str, Any] | None = None
    """What structured content it promises to give."""


class _ToolPage(msgspec.Struct, rename="camel"):
    tools: list[ToolInfo]
    next_cursor: str | None = None


class McpSession:
    """One conversation with one server."""

    def __init__(
        self,
        outbound: Outbound,
        url: str,
        *,
        credential: str | None,
        timeout_seconds: float,
        may_repeat: bool,
    ) -> None:
        """Say nothing yet."""
        self._outbound = outbound
        self._url = url
        self._credential = credential
        self._timeout = timeout_seconds
        self._may_repeat = may_repeat
        self._session: str | None = None
        self._version: str | None = None
        self._server = f"the MCP server at {urlsplit(url).hostname or ''}"

    @property
    def has_session(self) -> bool:
        """Return whether the server keeps something for us."""
        return self._session is not None

    async def open(self) -> None:
        """Shake hands. Nothing has happened yet when that fails, so it may be tried again."""
        me = {"name": "everesthood", "version": __version__}
        given = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": me}
        try:
            answer = await self._send(_request(1, "initialize", given), wanted=1)
            self._session = self._session_of(answer)
            version = self._result(answer, 1).get("protocolVersion")
            if not isinstance(version, str) or version not in KNOWN:
                shown = msgspec.json.encode(version).decode()[:50]
                raise self._liar(f"speaks protocol {shown}, not {PROTOCOL}")
            self._version = version
            await self._send({"jsonrpc": "2.0", "method": "notifications/initialized"}, wanted=None)
        except OutcomeUnknown as error:
            after = error.retry_after_seconds
            raise StepFailed(error.message, transient=True, retry_after_seconds=after) from None

    async def tools(self) -> dict[str, ToolInfo]:
        """Return the tools that the server offers, by name."""
        found: dict[str, ToolInfo] = {}
        cursor: dict[str, object] = {}
        for number in range(2, 2 + _MOST_PAGES):
            answer = await self._send(_request(number, "tools/list", cursor), wanted=number)
            try:
                page = msgspec.convert(self._result(answer, number), _ToolPage)
            except msgspec.ValidationError:
                raise self._liar("lists tools in a way that is none") from None
            found |= {tool.name: tool for tool in page.tools}
            if not page.next_cursor:
                return found
            cursor = {"cursor": page.next_cursor}
        raise self._liar(f"lists tools on more than {_MOST_PAGES} pages")

    async def call(self, tool: str, arguments: Mapping[str, object], key: str) -> dict[str, Any]:
        """Call a tool and return its result as the server gives it."""
        message = _request(2, "tools/call", {"name": tool, "arguments": arguments})
        return self._result(await self._send(message, wanted=2, key=key), 2)

    async def close(self) -> None:
        """Tell the server that it may forget the session."""
        call = Call(
            method="DELETE",
            url=self._url,
            headers=self._headers(),
            credential=self._credential,
            timeout_seconds=_GOODBYE_SECONDS,
            follow_redirects=False,
        )
        await self._outbound.send(call)

    async def _send(self, message: Mapping[str, object], *, wanted: int | None, key: str = "") -> Answer:
        headers = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")]
        if key:
            headers.append((IDEMPOTENCY_HEADER, key))
        answer = await self._outbound.send(
            Call(
                method="POST",
                url=self._url,
                headers=(*headers, *self._headers()),
                content=msgspec.json.encode(message),
                credential=self._credential,
                max_bytes=_MAX_BYTES,
                timeout_seconds=self._timeout,
                follow_redirects=False,
                is_enough=None if wanted is None else _Listener(wanted),
            )
        )
        if not 200 <= answer.status < 300:  # noqa: PLR2004 - any success
            raise refused(answer, self._server, may_repeat=self._may_repeat, credential=self._credential)
        return answer

    def _headers(self) -> tuple[tuple[str, str], ...]:
        named = (("Mcp-Session-Id", self._session), ("MCP-Protocol-Version", self._version))
        return tuple((name, value) for name, value in named if value is not None)

    def _session_of(self, answer: Answer) -> str | None:
        session = answer.headers.get("mcp-session-id")
        if session is not None and (
            len(session) > _LONGEST_SESSION or not session.isascii() or not session.isprintable()
        ):
            raise self._liar("gives a session id that no header can carry")
        return session

    def _result(self, answer: Answer, wanted: int) -> dict[str, Any]:
        reply = self._reply(answer, wanted)
        if reply.error is not None:
            said = f"{self._server} refused: {reply.error.message[:_SHOWN]} ({reply.error.code})"
            raise StepFailed(said)
        if reply.result is None:
            raise self._liar("answers with neither a result nor an error")
        return reply.result

    def _reply(self, answer: Answer, wanted: int) -> _Reply:
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            for data in _events(answer.body):
                found = _read(data)
                if found is not None and _is_reply(found, wanted):
                    return found
            raise OutcomeUnknown(f"{self._server} ended its stream without an answer", transient=True)
        if kind != "application/json":
            raise self._liar(f"answers with {kind[:50] or 'no content type'}, not JSON or a stream of events")
        reply = _read(answer.body)
        if reply is None:
            raise self._liar("answers with what is not JSON-RPC")
        if not _is_reply(reply, wanted):
            raise self._liar("answers another request than was asked")
        return reply

    def _liar(self, what: str) -> StepFailed:
        return StepFailed(f"{self._server} {what}", Reason.OUTPUT_INVALID)


class _Listener:
    """Knows from the parts of a stream when the answer is there; servers may keep the stream open."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._left = bytearray()

    def __call__(self, part: bytes) -> bool:
        seen = max(0, len(self._left) - 3)
        self._left += part
        ends = [found.end() for found in _END_OF_EVENT.finditer(self._left, seen)]
        if not ends:
            return False
        complete, self._left = bytes(self._left[: ends[-1]]), self._left[ends[-1] :]
        replies = (_read(data) for data in _events(complete))
        return any(reply is not None and _is_reply(reply, self._wanted) for reply in replies)


def _request(number: int, method: str, params: Mapping[str, object]) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each event of a stream."""
    for event in _END_OF_EVENT.split(body):
        lines = [line[5:].removeprefix(b" ") for line in event.splitlines() if line.startswith(b"data:")]
        if lines:
            yield b"\n".join(lines)


def _read(data: bytes) -> _Reply | None:
    try:
        return msgspec.json.decode(data, type=_Reply)
    except (msgspec.DecodeError, RecursionError):
        return None


def _is_reply(reply: _Reply, wanted: int) -> bool:
    """Return whether it answers our request; a request or a notification of the server does not."""
    return reply.id == wanted and (reply.result is not None or reply.error is not None)
