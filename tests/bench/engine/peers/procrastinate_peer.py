"""Procrastinate on PostgreSQL: an asyncio worker, jobs kept. Done: the row's status is `succeeded`."""

import asyncio
import time

import procrastinate
import psycopg
from shared import PAYLOAD, PER_CALL, arguments, consumer, end, in_flight, report, until

GIVEN = arguments(__doc__).parse_args()
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=GIVEN.url, min_size=4, max_size=20))


@app.task(name="noop", retry=procrastinate.RetryStrategy(max_attempts=3, exponential_wait=2))
async def noop(payload):
    return None


async def consume() -> None:
    async with app.open_async():
        print("ready", flush=True)
        await app.run_worker_async(
            concurrency=GIVEN.concurrency, wait=True, listen_notify=True, delete_jobs="never"
        )


async def produce() -> tuple[float, float]:
    async with app.open_async():
        began = time.time()
        if GIVEN.bulk:
            for at in range(0, GIVEN.number, PER_CALL):
                some = min(PER_CALL, GIVEN.number - at)
                await noop.batch_defer_async(*[{"payload": PAYLOAD}] * some)
        else:
            await in_flight(GIVEN.number, lambda: noop.defer_async(payload=PAYLOAD))
        return began, time.time()


def main() -> None:
    if GIVEN.consume:
        asyncio.run(consume())
        return
    with app.open():
        app.schema_manager.apply_schema()
    record = psycopg.connect(GIVEN.url, autocommit=True)
    worker_process = consumer()
    time.sleep(1)  # it says that it is ready a little before it is
    began, sent = asyncio.run(produce())

    def done() -> bool:
        count = record.execute(
            "select count(*) from procrastinate_jobs where status = 'succeeded'"
        ).fetchone()
        return count[0] >= GIVEN.number

    report(GIVEN.number, began, sent, until(done))
    end(worker_process)


if __name__ == "__main__":
    main()
