"""Oban for Python, the open source one, on PostgreSQL. Done: the row's state is `completed`."""

import asyncio
import time

import psycopg
from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool
from shared import PAYLOAD, PER_CALL, arguments, consumer, end, in_flight, report, until


@worker(queue="q", max_attempts=3)
class Noop:
    async def process(self, job):
        return None


async def pool(url: str) -> AsyncConnectionPool:
    made = AsyncConnectionPool(url, min_size=4, max_size=20, open=False)
    await made.open(wait=True)
    return made


async def prepare(url: str) -> None:
    await install(await pool(url))


async def consume(url: str, concurrency: int) -> None:
    async with Oban(pool=await pool(url), queues={"q": concurrency}):
        print("ready", flush=True)
        await asyncio.sleep(3600)


async def produce(url: str, number: int, *, bulk: bool) -> tuple[float, float]:
    oban = Oban(pool=await pool(url))
    began = time.time()
    if bulk:
        for at in range(0, number, PER_CALL):
            await oban.enqueue_many([Noop.new(PAYLOAD) for _ in range(min(PER_CALL, number - at))])
    else:
        await in_flight(number, lambda: oban.enqueue(Noop.new(PAYLOAD)))
    return began, time.time()


def main() -> None:
    given = arguments(__doc__).parse_args()
    if given.consume:
        asyncio.run(consume(given.url, given.concurrency))
        return
    asyncio.run(prepare(given.url))
    record = psycopg.connect(given.url, autocommit=True)
    worker_process = consumer()
    began, sent = asyncio.run(produce(given.url, given.number, bulk=given.bulk))

    def done() -> bool:
        count = record.execute("select count(*) from oban_jobs where state = 'completed'").fetchone()
        return count[0] >= given.number

    report(given.number, began, sent, until(done))
    end(worker_process)


if __name__ == "__main__":
    main()
