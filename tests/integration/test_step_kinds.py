"""forEach, mcp and agent steps against real HTTP servers, through the guarded client."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.support.servers import Asked, Reply, Server, serving
from tests.support.worker import (
    Credentials,
    FakeGateway,
    Serving,
    agent,
    assignment,
    doing,
    execute,
    executing,
    output_of,
    step,
)

from everesthood.adapters.outbound import GuardedClient, Policy
from everesthood.apis.wire import CredentialLease
from everesthood.usecases.execute_step import Doing

pytestmark = pytest.mark.integration

SECRET = "sk-canary-7f3a9c"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@asynccontextmanager
async def calling(server: Server) -> AsyncIterator[Doing]:
    """Yield what does steps, with the server opened to it and one credential for it."""
    address = f"127.0.0.1:{server.port}"
    credentials = Credentials(key=CredentialLease(type="Bearer", value=SECRET, hosts=(address,)))
    policy = Policy(egress=(), internal_hosts=frozenset({address}), slots={"key": (address,)})
    guarded = GuardedClient(policy, credentials)
    try:
        yield doing(guarded, credentials)
    finally:
        await guarded.aclose()


def numbered(asked: Asked) -> Reply:
    number = int(asked.path.partition("?n=")[2])
    return Reply(
        headers={"Content-Type": "application/json"}, body=msgspec.json.encode({"square": number**2})
    )


def squares(server: Server, parallel: int = 10) -> dict[str, Any]:
    inner = step("fetch", http={"url": f"http://127.0.0.1:{server.port}/square?n={{{{ item }}}}"})
    last = step("square", "fetch", value="steps.fetch.body.square")
    return step("loop", forEach={"items": "input", "maxParallel": parallel, "steps": [inner, last]})


async def test_a_loop_calls_for_each_item(server: Server) -> None:
    """A hundred items, ten at once, each asked once, answers in order."""
    server.replies["/square"] = numbered
    async with calling(server) as by:
        finish = await execute(agent(squares(server)), assignment(value=list(range(100))), by=by)

    assert output_of(finish) == [n**2 for n in range(100)]
    assert len(server.asked) == 100


async def test_a_loop_resumed_by_another_worker_asks_only_for_the_rest(server: Server) -> None:
    """What the first worker fetched is not fetched again."""
    gateway = FakeGateway()
    (name,) = gateway.add(value=list(range(6)))
    held, what = asyncio.Event(), agent(squares(server, parallel=2))
    loop = asyncio.get_running_loop()

    def half(asked: Asked) -> Reply:
        reply = numbered(asked)
        if len(server.asked) > 3:
            loop.call_soon_threadsafe(held.set)
            reply.wait = lambda: server.ended.wait(0.5)
        return reply

    server.replies["/square"] = half
    async with calling(server) as by, Serving(gateway, executing(what, by)) as worker:
        await held.wait()
        await gateway.until(lambda: "loop[2].square" in gateway.rows[name].steps)
        await worker.stop(0.01)
    before = len(server.asked)
    done = [n for n in range(6) if f"loop[{n}].fetch" in gateway.rows[name].steps]
    server.replies["/square"] = numbered
    async with calling(server) as by, Serving(gateway, executing(what, by)):
        await gateway.until_over()

    finish = gateway.rows[name].finish
    assert finish is not None
    assert msgspec.json.decode(finish.output) == [n**2 for n in range(6)]
    assert {a.path for a in server.asked[before:]} == {f"/square?n={n}" for n in range(6) if n not in done}


class Tools:
    """An MCP server with one tool, in JSON or as a stream."""

    def __init__(
        self, server: Server, *, streams: bool = False, result: dict[str, Any] | None = None
    ) -> None:
        self.methods: list[str] = []
        self.streams = streams
        self.result = result or {"content": [{"type": "text", "text": "ok"}], "structuredContent": {"n": 7}}
        self.url = f"http://127.0.0.1:{server.port}/mcp"
        self._ended = server.ended
        server.replies["/mcp"] = self.reply

    def reply(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {SECRET}":
            return Reply(status=401)
        if asked.method == "DELETE":
            self.methods.append("DELETE")
            return Reply(status=204)
        message = msgspec.json.decode(asked.body)
        self.methods.append(message["method"])
        if "id" not in message:
            return Reply(status=202)
        if message["method"] == "initialize":
            body = {
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "serverInfo": {"name": "x", "version": "1"},
            }
            return self._answer(message["id"], body, {"Mcp-Session-Id": "abc"})
        if asked.headers.get("mcp-session-id") != "abc":
            return Reply(status=400)
        return self._answer(message["id"], self.result, {})

    def _answer(self, number: int, result: object, headers: dict[str, str]) -> Reply:
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": number, "result": result})
        if not self.streams:
            return Reply(headers={"Content-Type": "application/json", **headers}, body=body)
        parts = [b": hi\n\n", b'data: {"jsonrpc":"2.0","method":"notifications/message"}\n\n']
        return Reply(
            headers={"Content-Type": "text/event-stream", **headers},
            parts=[*parts, b"data: ", body[:9], body[9:] + b"\n\n", b"data: more\n\n"],
            wait=self._waits(),
        )

    def _waits(self) -> Any:
        """Hold the stream open after the answer, as servers do."""
        left = iter(range(5))
        return lambda: self._ended.wait(0 if next(left, None) is not None else 20)

    def step(self, **fields: Any) -> dict[str, Any]:
        return step("ask", mcp={"url": self.url, "tool": "count", "credential": "key"}, **fields)


@pytest.mark.parametrize("streams", [False, True], ids=["json", "stream"])
async def test_an_mcp_tool_is_called(server: Server, streams: bool) -> None:
    """The whole conversation, credential included; a stream that stays open is not waited for."""
    tools = Tools(server, streams=streams)
    async with calling(server) as by, asyncio.timeout(10):
        finish = await execute(agent(tools.step()), by=by)
        while "DELETE" not in tools.methods:
            await asyncio.sleep(0.01)

    assert output_of(finish) == {"n": 7}
    assert tools.methods == ["initialize", "notifications/initialized", "tools/call", "DELETE"]


@pytest.mark.parametrize("repeatable", [False, True])
async def test_an_endless_stream_ends_with_the_steps_time(server: Server, repeatable: bool) -> None:
    """A server that never answers costs no more than timeoutSeconds; the call may have taken effect."""
    tools = Tools(server)

    def reply(asked: Asked) -> Reply:
        if b"tools/call" not in asked.body:
            return tools.reply(asked)
        parts = [b": still here\n\n"] * 1000
        return Reply(
            headers={"Content-Type": "text/event-stream"}, parts=parts, wait=lambda: server.ended.wait(0.05)
        )

    server.replies["/mcp"] = reply
    async with calling(server) as by, asyncio.timeout(10):
        finish = await execute(agent(tools.step(timeoutSeconds=1, idempotent=repeatable)), by=by)

    assert finish.outcome == ("failed" if repeatable else "ambiguous")
    assert "1 s" in finish.message


async def test_an_oversized_stream_is_cut(server: Server) -> None:
    """Not more than 4 MiB of an answer is read."""
    tools = Tools(server, result={"content": [{"type": "text", "text": "x" * 5_000_000}]})
    async with calling(server) as by:
        finish = await execute(agent(tools.step()), by=by)

    assert (finish.outcome, finish.reason) == ("failed", "OutputTooLarge")
    assert "more than 4194304 bytes" in finish.message


class Model:
    """An OpenAI-compatible endpoint that looks an article up, orders it and says so, whoever asks."""

    def __init__(self, server: Server) -> None:
        self.base = f"http://127.0.0.1:{server.port}"
        self.asked: list[int] = []
        server.replies["/v1/chat/completions"] = self.reply

    def reply(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {SECRET}":
            return Reply(status=401)
        messages = msgspec.json.decode(asked.body)["messages"]
        answers = [m["content"] for m in messages if m["role"] == "tool"]
        self.asked.append(len(answers))
        message: dict[str, Any] = {"role": "assistant", "content": None}
        match len(answers):
            case 0:
                message["tool_calls"] = [self._call("look", {"id": 3})]
            case 1:
                cents = msgspec.json.decode(answers[0])["body"]["cents"]
                message["tool_calls"] = [self._call("order", {"id": 3, "cents": cents})]
            case _:
                message["content"] = f"Ordered: {msgspec.json.decode(answers[1])['body']}"
        body = {"choices": [{"message": message}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        return Reply(headers={"Content-Type": "application/json"}, body=msgspec.json.encode(body))

    def _call(self, name: str, args: object) -> dict[str, Any]:
        arguments = msgspec.json.encode(args).decode()
        return {"id": f"c-{name}", "type": "function", "function": {"name": name, "arguments": arguments}}

    def step(self) -> dict[str, Any]:
        look = {
            "name": "look",
            "description": "Look.",
            "http": {"url": f"{self.base}/articles/{{{{ args.id }}}}"},
        }
        http = {"method": "POST", "url": f"{self.base}/orders", "json": "args", "credential": "key"}
        order = {"name": "order", "description": "Order.", "http": http}
        return step(
            "buy",
            agent={
                "endpoint": f"{self.base}/v1", "model": "m", "credential": "key", "instructions": "Buy.",
                "prompt": "{{ input }}", "tools": [look, order],
            },
        )  # fmt: skip


def shop(server: Server) -> None:
    server.replies["/articles/3"] = Reply(headers={"Content-Type": "application/json"}, body=b'{"cents":700}')
    server.replies["/orders"] = lambda asked: Reply(status=201, body=b"order of " + asked.body)


async def test_an_agent_works_with_real_servers(server: Server) -> None:
    """Model, look-up and order, each once, with credentials where they belong."""
    model = Model(server)
    shop(server)
    async with calling(server) as by:
        finish = await execute(agent(model.step()), assignment(value="tea"), by=by)

    said, _, order = output_of(finish)["content"].partition(" of ")
    assert (said, msgspec.json.decode(order)) == ("Ordered: order", {"id": 3, "cents": 700})
    assert output_of(finish)["usage"] == {"inputTokens": 27, "outputTokens": 3}
    paths = {asked.path: asked.headers.get("authorization") for asked in server.asked}
    assert paths == {
        "/v1/chat/completions": f"Bearer {SECRET}", "/articles/3": None, "/orders": f"Bearer {SECRET}",
    }  # fmt: skip


async def test_an_agent_resumed_by_another_worker_asks_only_for_the_rest(server: Server) -> None:
    """The first worker stops while the model thinks about its second turn; the second begins there."""
    gateway = FakeGateway()
    (name,) = gateway.add(value="tea")
    model, what = Model(server), None
    shop(server)
    what = agent(model.step())
    thinking, loop = asyncio.Event(), asyncio.get_running_loop()

    def slow(asked: Asked) -> Reply:
        reply = model.reply(asked)
        if model.asked[-1] == 1:
            loop.call_soon_threadsafe(thinking.set)
            reply.wait = lambda: server.ended.wait(0.3)
        return reply

    server.replies["/v1/chat/completions"] = slow
    async with calling(server) as by, Serving(gateway, executing(what, by)) as worker:
        await thinking.wait()
        await worker.stop(0.01)
    server.replies["/v1/chat/completions"] = model.reply
    async with calling(server) as by, Serving(gateway, executing(what, by)):
        await gateway.until_over()

    finish = gateway.rows[name].finish
    assert finish is not None
    assert finish.outcome == "succeeded"
    assert model.asked == [0, 1, 1, 2]
    assert [asked.path for asked in server.asked].count("/articles/3") == 1
