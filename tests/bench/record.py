"""How fast the record is: `python -m tests.bench.record`. PostgreSQL with fsync on, all in one process.

Each figure is runs per second. Stores: accept and work called directly. Gateway: workers speak HTTP to
the gateway's application on uvicorn in this process, so client, server and database share the cores.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx2
import msgspec
import uvloop
from tests.support.postgres import free_port, running_postgres
from tests.support.record import INSTANCE, Harness, finish, postgres_harness, seat, step, wish

from everesthood.adapters.postgres import Database, migrate
from everesthood.apis import wire
from everesthood.entrypoints.gateway.app import Gateway
from everesthood.entrypoints.gateway.main import build_server
from everesthood.entrypoints.gateway.routes import Parts, routes
from everesthood.usecases.lease_queue import Broker
from everesthood.usecases.leave import Leaving
from everesthood.usecases.ports.record import WorkerSeat

Work = Callable[[wire.WorkRequest], Awaitable[wire.WorkReply]]
_CLIENTS = 50
_BATCH = 100
_UIDS = tuple(f"uid-{n}" for n in range(50))
_OUTPUT = msgspec.Raw(b'{"text":"done"}')


async def accept_all(record: Harness, runs: int, clients: int = _CLIENTS) -> None:
    """Accept runs with so many callers, one accept at a time each, with an idempotency key."""
    numbers = iter(range(runs))

    async def caller() -> None:
        for n in numbers:
            await record.runs.accept(wish(idempotency_key=f"{time.time_ns()}-{n}", request_digest=b"d"))

    await asyncio.gather(*(caller() for _ in range(clients)))


async def drain(work: Work, runs: int, batch: int = _BATCH) -> None:
    """Claim, hand in with one checkpoint a run, claim again; one call in flight."""
    done, ends = 0, ()
    while done < runs:
        reply = await work(wire.WorkRequest(want=batch, finished=ends))
        done += len(ends)
        ends = tuple(finish(held, output=_OUTPUT, steps=(step("only"),)) for held in reply.assignments)
        if not ends and done < runs:
            await asyncio.sleep(0.005)


async def timed(runs: int, *jobs: Awaitable[None]) -> float:
    """Return runs per second."""
    began = time.perf_counter()
    await asyncio.gather(*jobs)
    return runs / (time.perf_counter() - began)


class Direct:
    """Workers that call the store itself."""

    def __init__(self, record: Harness) -> None:
        self._record = record

    def worker(self, uid: str) -> Work:
        async def work(request: wire.WorkRequest) -> wire.WorkReply:
            return await self._record.work.work(seat(uid=uid), request)

        return work


class AnySeat:
    """Seats whoever comes: authentication is cached in real life, and not what is measured here."""

    async def __call__(self, token: str, revision: str | None) -> WorkerSeat:
        return seat(uid=token, revision=revision or "r1")


class Silent:
    """No bell and no Secret."""

    async def settle(self, _uid: str, _revision: str) -> None:
        return


async def measure(url: str, runs: int) -> list[tuple[str, float]]:
    """Return (what, runs per second)."""
    database = Database(lambda: url)
    await migrate(database)
    await database.close()
    rows: list[tuple[str, float]] = []
    async with postgres_harness(url) as record:
        await record.registry.publish_instance(INSTANCE)

        direct = Direct(record).worker("uid-a")
        rows.append((f"stores: accept, {_CLIENTS} callers", await timed(runs, accept_all(record, runs))))
        rows.append((f"stores: work, batch {_BATCH}", await timed(runs, drain(direct, runs))))
        both = await timed(runs, accept_all(record, runs), drain(direct, runs))
        rows.append(("stores: accept → done, together", both))
        one = await timed(runs // 10, accept_all(record, runs // 10, 1))
        rows.append(("stores: accept, one caller", one))
        await drain(direct, runs // 10)
        await publish_many(record)
        rows.append(("stores: 50 instances, 5 slots each", await many(record, Direct(record).worker, runs)))
        rows += await through_gateway(record, runs)
    return rows


async def through_gateway(record: Harness, runs: int) -> list[tuple[str, float]]:
    """Measure with workers that speak HTTP."""
    broker = Broker(host="", port=0, tls=False, bell_key=b"")
    parts = Parts(
        work=record.work,
        store=record.gateway,
        bell=Silent(),
        secrets=Silent(),  # type: ignore[arg-type]
        broker=broker,
        cancellations=record.cancellations,
        call_instance=Silent(),  # type: ignore[arg-type]
        leaving=Leaving(record.gateway, Silent()),
    )
    port = free_port()
    server = build_server(Gateway(seat=AnySeat(), routes=routes(parts)), port=port, host="127.0.0.1")
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    rows = []
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as http:

        def worker(uid: str) -> Work:
            async def work(request: wire.WorkRequest) -> wire.WorkReply:
                headers = {"Authorization": f"Bearer {uid}"}
                body = msgspec.json.encode(request)
                answer = await http.post(wire.WORK_PATH, content=body, headers=headers)
                return msgspec.json.decode(answer.content, type=wire.WorkReply)

            return work

        await accept_all(record, runs)
        rows.append((f"gateway: work, batch {_BATCH}", await timed(runs, drain(worker("uid-a"), runs))))
        both = await timed(runs, accept_all(record, runs), drain(worker("uid-a"), runs))
        rows.append(("gateway: accept → done, together", both))
        rows.append(("gateway: 50 instances, 5 slots each", await many(record, worker, runs)))
    server.should_exit = True
    await serving
    return rows


async def publish_many(record: Harness) -> None:
    """Publish fifty instances."""
    for uid in _UIDS:
        await record.registry.publish_instance(replace(INSTANCE, uid=uid, name=uid))


async def many(record: Harness, worker: Callable[[str], Work], runs: int) -> float:
    """Drain fifty instances at once, each by a worker with few slots."""
    each = runs // len(_UIDS)
    wishes = itertools.chain.from_iterable([uid] * each for uid in _UIDS)
    await asyncio.gather(*(record.runs.accept(wish(instance_uid=uid, instance=uid)) for uid in wishes))
    return await timed(each * len(_UIDS), *(drain(worker(uid), each, 5) for uid in _UIDS))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    with running_postgres(fsync="on", shared_buffers="256MB") as server:
        rows = uvloop.run(measure(server.url, runs))
    print(f"{runs} runs each, PostgreSQL with fsync")
    for what, rate in rows:
        print(f"{what:<36}{rate:>10,.0f} runs/s")


if __name__ == "__main__":
    main()
