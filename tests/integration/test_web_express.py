"""The short way of the frequent operations: whatever is asked, it answers as the usual way does."""

import contextlib
from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.support.reviews import FakeApiServer
from tests.support.web import EVERYTHING, Stores, parts_of, publish

from everesthood.adapters.memory import MemoryControl, MemoryRegistry, MemoryRuns, MemoryWork, Record
from everesthood.adapters.memory.bell import MemoryBell
from everesthood.apis.names import API_PREFIX
from everesthood.entrypoints.web.app import build_api
from everesthood.entrypoints.web.express import OPERATIONS, Express
from everesthood.entrypoints.web.middleware import Around
from everesthood.entrypoints.web.streams import Streams

ACME = f"{API_PREFIX}/namespaces/acme"
ONE, MANY = f"{ACME}/instances/summarizer/runs", f"{ACME}/instances/summarizer/runs/bulk"
GOOD = b'{"input": {"text": "x"}}'
OWN = ("id", "requestId", "createdAt", "dueAt")
"""Fields of an answer that no two requests share."""


class Broken(MemoryRuns):
    """A record that has a defect."""

    async def accept(self, request):
        raise ZeroDivisionError


@contextlib.asynccontextmanager
async def both_ways(kind=MemoryRuns) -> AsyncIterator[list[httpx2.AsyncClient]]:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for way in (Express, lambda api: api):
            record = Record()
            stores = Stores(
                runs=kind(record),
                work=MemoryWork(record),
                registry=MemoryRegistry(record),
                control=MemoryControl(record),
            )
            await publish(stores.registry)
            kubernetes = FakeApiServer()
            kubernetes.know("ada-token", "ada", "everesthood-web")
            kubernetes.grant("ada", "acme", *EVERYTHING)
            app = Around(way(build_api(parts_of(stores, kubernetes, MemoryBell(), Streams()))))
            transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
            client = httpx2.AsyncClient(transport=transport, base_url="http://web")
            clients.append(await stack.enter_async_context(client))
        yield clients


def comparable(answer: httpx2.Response) -> tuple:
    """Return all of an answer that must be equal."""
    body = answer.json()
    for part in [body, *(body.get("items") or [])]:
        for name in OWN:
            part.pop(name, None)
    headers = {k: v for k, v in answer.headers.items() if k not in {"x-request-id", "location"}}
    return answer.status_code, headers, body, "location" in answer.headers


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (ONE, GOOD, {}),
        (ONE, b"", {}),
        (ONE, b"{", {}),
        (ONE, b'{"input": {"no": 1}}', {}),
        (ONE, b'{"more": 1}', {}),
        (ONE, GOOD, {"Content-Type": "text/plain"}),
        (ONE, GOOD, {"Content-Encoding": "gzip"}),
        (ONE, GOOD, {"Idempotency-Key": "with space"}),
        (ONE, GOOD, {"Authorization": "Bearer wrong"}),
        (ONE, GOOD, {"Authorization": ""}),
        (ONE, b'{"input": "' + b"x" * 1_100_000 + b'"}', {}),
        (f"{ACME}/instances/nobody/runs", GOOD, {}),
        (f"{ACME}/instances/young/runs", GOOD, {}),
        (f"{ACME}/instances/Bad_Name/runs", GOOD, {}),
        (f"{ACME}/instances/a%2Fb/runs", GOOD, {}),
        (f"{ACME}/instances//runs", GOOD, {}),
        (f"{ONE}/", GOOD, {}),
        (f"{API_PREFIX}/namespaces/globex/instances/summarizer/runs", GOOD, {}),
        (MANY, b'{"runs": [' + GOOD + b', {"input": {}}]}', {}),
        (MANY, b'{"runs": []}', {}),
        (MANY, GOOD, {}),
    ],
)
async def test_it_answers_as_the_usual_way_does(path, body, headers):
    """Status, headers and body are equal, whether the request is good, bad or not for them at all."""
    said = {"Authorization": "Bearer ada-token", "Content-Type": "application/json", **headers}
    async with both_ways() as (short, usual):
        answers = [await client.post(path, content=body, headers=said) for client in (short, usual)]

    assert comparable(answers[0]) == comparable(answers[1])


async def test_a_defect_is_answered_alike():
    """500 as a problem that tells nothing of the inside."""
    async with both_ways(Broken) as clients:
        headers = {"Authorization": "Bearer ada-token"}
        answers = [await client.post(ONE, content=GOOD, headers=headers) for client in clients]

    assert answers[0].status_code == 500
    assert comparable(answers[0]) == comparable(answers[1])


def test_the_frequent_operations_are_routes():
    """None of them was renamed without this list."""
    known = {getattr(route, "operation_id", None) for route in build_api().router.routes}

    assert known >= OPERATIONS
