"""mcp steps: the conversation with a server, and what becomes of servers that lie."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.worker import Credentials, Journal, Way, agent, assignment, doing, execute, output_of, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease, Finish, StepRecord
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer, Call

MCP: dict[str, Any] = {
    "url": "https://{{ config.host }}/mcp", "tool": "search", "arguments": "{'q': input.q}", "credential": "key",
}  # fmt: skip
HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
FOUND = {
    "content": [{"type": "text", "text": "a"}, {"type": "image", "data": "x"}, {"type": "text", "text": "b"}]
}
JSON = {"content-type": "application/json"}


def reply(result: object, number: int = 2, **more: Any) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "result": result, **more})


class Tools(Way):
    """A server's part of the conversation; a test changes the answer to one method."""

    def __init__(self, session: str | None = "s-1", **answers: Any) -> None:
        super().__init__(self._reply)
        self.answers: dict[str, Any] = answers
        self.said: list[str] = []
        self.session = session

    def _reply(self, call: Call) -> Answer:
        method = (
            "DELETE"
            if call.content is None
            else msgspec.json.decode(call.content)["method"].rpartition("/")[2]
        )
        self.said.append(method)
        found = self.answers.get(method)
        if isinstance(found, Exception):
            raise found
        if isinstance(found, Answer):
            return found
        match method:
            case "initialize":
                named = {"mcp-session-id": self.session} if self.session else {}
                return Answer(status=200, headers={**JSON, **named}, body=reply(found or HELLO, 1))
            case "call":
                return Answer(status=200, headers=JSON, body=reply(found or FOUND))
            case _:
                return Answer(status=202 if method == "initialized" else 204, headers={}, body=b"")


async def run(
    way: Way,
    member: dict[str, Any] | None = None,
    *,
    journal: Journal | None = None,
    past: tuple[StepRecord, ...] = (),
    **fields: Any,
) -> Finish:
    what = agent(step("ask", mcp=member or MCP, **fields), config={"host": "tools.example"})
    given = assignment(value={"q": "tea"}, steps=past)
    credentials = Credentials(key=CredentialLease(type="Bearer", value="sk-canary-7f3a9c"))
    finish = await execute(what, given, journal=journal, by=doing(way, credentials))
    for _ in range(5):
        await asyncio.sleep(0)  # the good-bye
    return finish


async def test_a_tool_is_called_after_the_handshake_and_the_session_ended() -> None:
    """initialize, initialized, tools/call, DELETE, with session and version on all but the first."""
    way = Tools()
    finish = await run(way, timeoutSeconds=9)

    first, second, third, last = way.calls
    bodies = [msgspec.json.decode(call.content or b"null") for call in way.calls]
    assert output_of(finish) == "a\nb"
    assert way.said == ["initialize", "initialized", "call", "DELETE"]
    assert {(c.url, c.credential, c.follow_redirects) for c in way.calls} == {
        ("https://tools.example/mcp", "key", False)
    }
    assert bodies[0]["params"]["protocolVersion"] == "2025-06-18"
    assert "id" not in bodies[1]
    assert bodies[2] == {
        "jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "search", "arguments": {"q": "tea"}},
    }  # fmt: skip
    for call in (second, third, last):
        assert dict(call.headers)["Mcp-Session-Id"] == "s-1"
        assert dict(call.headers)["MCP-Protocol-Version"] == "2025-06-18"
    assert dict(first.headers)["Accept"] == "application/json, text/event-stream"
    assert "Mcp-Session-Id" not in dict(first.headers)
    assert len(dict(third.headers)["Idempotency-Key"]) == 64
    assert third.timeout_seconds == 9


async def test_a_server_without_sessions_gets_no_goodbye() -> None:
    """There is nothing to end."""
    way = Tools(session=None)

    assert (await run(way)).outcome == "succeeded"
    assert way.said == ["initialize", "initialized", "call"]


@pytest.mark.parametrize(
    ("result", "output"),
    [
        ({**FOUND, "structuredContent": {"n": 1}}, {"n": 1}),
        ({"content": []}, ""),
        ({"content": [{"type": "resource", "resource": {"uri": "u", "text": "inside"}}]}, "inside"),
        ({"content": [{"type": "resource", "resource": {"uri": "u", "blob": "x"}}]}, ""),
    ],
)
async def test_structured_content_counts_before_text(result: dict[str, Any], output: object) -> None:
    """The output is the structured content where there is one, else the texts, a line each."""
    assert output_of(await run(Tools(call=result))) == output


STREAM = {"content-type": "text/event-stream; charset=utf-8"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_an_answer_may_come_in_a_stream(end: str) -> None:
    """Notifications, requests and other answers before ours are passed over; data may be on several lines."""
    lines = [
        ": hello", "", "event: message", 'data: {"jsonrpc":"2.0","method":"notifications/progress"}', "",
        'data: {"jsonrpc":"2.0","id":2,"method":"ping"}', "", 'data: {"jsonrpc":"2.0","id":7,"result":{}}', "",
        'data:{"jsonrpc":"2.0","id":2,', 'data: "result":{"content":[{"type":"text","text":"yes"}]}}', "", "",
    ]  # fmt: skip
    answer = Answer(status=200, headers=STREAM, body=end.join(lines).encode())
    way = Tools(call=answer)
    finish = await run(way)
    listens = way.calls[2].is_enough

    assert output_of(finish) == "yes"
    assert listens is not None
    parts = [answer.body[n : n + 5] for n in range(0, len(answer.body), 5)]
    heard = [listens(part) for part in parts]
    assert (heard.count(True), any(heard[: len(parts) - 3])) == (1, False)


@pytest.mark.parametrize(
    ("answer", "reason", "said"),
    [
        (
            Answer(status=200, headers=JSON, body=b"<html>"),
            Reason.OUTPUT_INVALID,
            "answers with what is not JSON-RPC",
        ),
        (
            Answer(status=200, headers=JSON, body=b"[]"),
            Reason.OUTPUT_INVALID,
            "answers with what is not JSON-RPC",
        ),
        (
            Answer(status=200, headers=JSON, body=b"[" * 100_000),
            Reason.OUTPUT_INVALID,
            "answers with what is not JSON-RPC",
        ),
        (
            Answer(status=200, headers=JSON, body=reply({}, 3)),
            Reason.OUTPUT_INVALID,
            "answers another request than was asked",
        ),
        (
            Answer(status=200, headers=JSON, body=b'{"id": 2}'),
            Reason.OUTPUT_INVALID,
            "answers another request than was asked",
        ),
        (
            Answer(status=200, headers={"content-type": "text/html"}, body=b""),
            Reason.OUTPUT_INVALID,
            "answers with text/html, not JSON or a stream of events",
        ),
        (
            Answer(status=202, headers={}, body=b""),
            Reason.OUTPUT_INVALID,
            "answers with no content type, not JSON or a stream of events",
        ),
        (Answer(status=404, headers=JSON, body=b""), Reason.STEP_FAILED, "answered 404"),
        (Answer(status=307, headers={"location": "/x"}, body=b""), Reason.STEP_FAILED, "answered 307"),
        (
            Answer(
                status=200, headers=JSON, body=reply(None, error={"code": -32602, "message": "no such tool"})
            ),
            Reason.STEP_FAILED,
            "refused: no such tool (-32602)",
        ),
    ],
)
async def test_a_server_that_lies_or_refuses_ends_in_one_sentence(
    answer: Answer, reason: str, said: str
) -> None:
    """Whatever comes back instead of an answer, the step fails by name, and the session is ended."""
    way = Tools(call=answer)
    finish = await run(way)

    assert (finish.outcome, finish.reason) == ("failed", reason)
    assert finish.message == f"steps.ask: the MCP server at tools.example {said}"
    assert way.said[-1] == "DELETE"


@pytest.mark.parametrize(
    ("hello", "said"),
    [
        ({**HELLO, "protocolVersion": "2024-11-05"}, 'speaks protocol "2024-11-05", not 2025-06-18'),
        ({**HELLO, "protocolVersion": None}, "speaks protocol null, not 2025-06-18"),
        ({"protocolVersion": {"a": "b" * 90}}, 'speaks protocol {"a":"' + "b" * 44 + ", not 2025-06-18"),
    ],
)
async def test_another_protocol_is_refused(hello: dict[str, Any], said: str) -> None:
    """A version without this transport, or none at all, calls no tool."""
    way = Tools(initialize=hello)
    finish = await run(way)

    assert finish.message == f"steps.ask: the MCP server at tools.example {said}"
    assert "call" not in way.said


@pytest.mark.parametrize("session", ["a\nb", "é", "x" * 1025])
async def test_a_session_id_that_no_header_can_carry_is_refused(session: str) -> None:
    """A session id is checked before it is ever sent back."""
    way = Tools(session=session)
    finish = await run(way)

    assert finish.message.endswith("gives a session id that no header can carry")
    assert way.said == ["initialize"]


@pytest.mark.parametrize("result", [{"content": "text"}, {"content": [1]}, {"structuredContent": [1]}])
async def test_a_result_of_the_wrong_shape_is_refused(result: dict[str, Any]) -> None:
    """A result is read, not trusted."""
    finish = await run(Tools(call=result))

    assert (finish.reason, finish.message) == (
        Reason.OUTPUT_INVALID, "steps.ask: tool search gives what is no result of a tool",
    )  # fmt: skip


async def test_a_tools_error_is_the_steps_with_its_text() -> None:
    """isError fails the step; with retry and idempotent, another try is made."""
    failing = {"isError": True, "content": [{"type": "text", "text": "no stock, sk-canary-7f3a9c"}]}
    way = Tools(call=failing)
    once = await run(Tools(call=failing), retry={"maxAttempts": 3})
    thrice = await run(way, retry={"maxAttempts": 3}, idempotent=True)
    silent = await run(Tools(call={"isError": True}))

    assert once.message == thrice.message == "steps.ask: tool search failed: no stock, [credential]"
    assert way.said.count("call") == 3
    assert silent.message == "steps.ask: tool search failed: it does not say why"


async def test_a_call_is_announced_and_not_repeated_unseen() -> None:
    """A tool call may have taken effect: it is written first, and found started nothing is called."""
    journal, way = Journal(), Tools()
    await run(Tools(), journal=journal)
    finish = await run(way, past=(StepRecord(name="ask", state="started"),))

    assert journal.history == [("ask", "started"), ("ask", "succeeded")]
    assert (finish.outcome, way.calls) == ("ambiguous", [])


@pytest.mark.parametrize(
    ("where", "outcome", "calls"),
    [("initialize", "failed", 0), ("initialized", "failed", 0), ("call", "ambiguous", 1)],
)
async def test_only_a_broken_tool_call_leaves_the_outcome_unknown(
    where: str, outcome: str, calls: int
) -> None:
    """Until the tool is called nothing has happened, so a broken handshake is a plain failure."""
    way = Tools(**{where: OutcomeUnknown("POST tools.example broke off", transient=True)})
    finish = await run(way)

    assert (finish.outcome, way.said.count("call")) == (outcome, calls)


async def test_a_stream_that_ends_without_an_answer_leaves_the_outcome_unknown() -> None:
    """The tool may have acted before the server went silent."""
    way = Tools(call=Answer(status=200, headers=STREAM, body=b"data: not json\n\ndata: {}\n\n"))
    finish = await run(way)

    assert finish.outcome == "ambiguous"
    assert finish.message.startswith(
        "steps.ask: the MCP server at tools.example ended its stream without an answer"
    )


async def test_a_goodbye_that_fails_does_not_matter() -> None:
    """The call was made; whether the server forgets at once is its own affair."""
    assert (await run(Tools(DELETE=StepFailed("cannot be reached")))).outcome == "succeeded"


@pytest.mark.parametrize(
    ("arguments", "said"), [("[1]", "arguments: the value is not an object"), ("input.x", "arguments: ")]
)
async def test_arguments_must_be_an_object(arguments: str, said: str) -> None:
    """What is no object is refused before anything is sent."""
    way = Tools()
    finish = await run(way, {**MCP, "arguments": arguments})

    assert finish.message.startswith(f"steps.ask: {said}")
    assert way.calls == []


async def test_without_arguments_an_empty_object_is_sent() -> None:
    """A tool without parameters is called with none."""
    way = Tools()
    await run(way, {"url": "https://tools.example/mcp", "tool": "now"})

    assert msgspec.json.decode(way.calls[2].content or b"")["params"] == {"name": "now", "arguments": {}}
