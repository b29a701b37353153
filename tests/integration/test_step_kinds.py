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
