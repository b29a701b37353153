"""Requests as bytes: however they come, the server takes and answers them as HTTP says."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.support.web import Stores, running_api

from everesthood.adapters.memory import MemoryControl, MemoryRegistry, MemoryRuns, MemoryWork, Record
from everesthood.apis.names import API_PREFIX
from everesthood.entrypoints.web.protocol import lines

pytestmark = pytest.mark.integration
BODY = b'{"input": {"text": "x"}}'
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[Streams]:
    record = Record()
    stores = Stores(
        runs=MemoryRuns(record),
        work=MemoryWork(record),
        registry=MemoryRegistry(record),
        control=MemoryControl(record),
    )
    async with running_api(stores) as api:
        host, port = api.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            yield reader, writer
        finally:
            writer.close()


def head(*headers: str, length: int = len(BODY)) -> bytes:
    said = ["Host: web", "Authorization: Bearer ada-token", f"Content-Length: {length}", *headers]
    path = f"{API_PREFIX}/namespaces/acme/instances/summarizer/runs"
    return "\r\n".join([f"POST {path} HTTP/1.1", *said, "", ""]).encode()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    async with asyncio.timeout(10):
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in rest if line)
        body = await reader.readexactly(int(headers["content-length"]))
    return int(first.split()[1]), headers, body


async def test_an_answer_has_each_header_once():
    """The short way adds what stands around every answer, and the length is that of the body."""
    async with connected() as (reader, writer):
        writer.write(head("X-Request-Id: mine") + BODY)
        async with asyncio.timeout(10):
            raw = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")[1:-2]

    names = [line.partition(":")[0] for line in raw]
    assert len(names) == len(set(names))
    assert {"x-request-id: mine", "cache-control: no-store", "content-type: application/json"} <= set(raw)
    assert {"date", "location", "content-security-policy", "x-frame-options"} <= set(names)


async def test_a_body_that_comes_in_pieces_is_waited_for():
    """Half of it is no request yet."""
    async with connected() as (reader, writer):
        writer.write(head() + BODY[:5])
        await writer.drain()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        writer.write(BODY[5:])

        assert (await answer(reader))[0] == 201


async def test_requests_sent_together_are_answered_in_order():
    """A client need not wait for the first answer before the second request."""
    async with connected() as (reader, writer):
        writer.write(b"".join(head(f"X-Request-Id: r{n}") + BODY for n in range(3)))
        answers = [await answer(reader) for _ in range(3)]

    assert [(status, headers["x-request-id"]) for status, headers, _ in answers] == [
        (201, "r0"),
        (201, "r1"),
        (201, "r2"),
    ]


async def test_a_client_that_wants_no_more_is_let_go():
    """`Connection: close` is answered, and then the connection ends."""
    async with connected() as (reader, writer):
        writer.write(head("Connection: close") + BODY)
        status, headers, _ = await answer(reader)
        async with asyncio.timeout(10):
            rest = await reader.read()

    assert (status, headers["connection"], rest) == (201, "close", b"")


async def test_a_client_may_ask_first_whether_to_send():
    """`Expect: 100-continue` is told to go on, and the answer comes after the body."""
    async with connected() as (reader, writer):
        writer.write(head("Expect: 100-continue"))
        async with asyncio.timeout(10):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)

        assert (await answer(reader))[0] == 201


async def test_a_body_that_is_too_large_is_refused():
    """413 before it is read, where its length says so, and where it comes all the same."""
    async with connected() as (reader, writer):
        writer.write(head(length=2_000_000))

        assert (await answer(reader))[0] == 413


def test_a_header_cannot_end_its_line():
    """Whatever got into a value, it starts no header of its own."""
    with pytest.raises(ValueError, match="location"):
        lines([(b"location", b"/x\r\nSet-Cookie: a=b")])
