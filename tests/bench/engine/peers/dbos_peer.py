"""DBOS Transact for Python: a queue of no-op workflows. Done: the workflow's status is SUCCESS.

It polls every 50 ms, not each second, and runs plain functions, which are faster than its coroutines: in its favour.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
from dbos import DBOS, DBOSClient
from shared import PAYLOAD, arguments, consumer, end, report, until

POLL_SECONDS = 0.05
THREADS = 16
WHAT = {"queue_name": "q", "workflow_name": "noop", "app_version": "v1"}


def consume(url: str) -> None:
    DBOS(
        config={
            "name": "peer",
            "system_database_url": url,
            "log_level": "ERROR",
            "run_admin_server": False,
            "application_version": "v1",
            "executor_id": "c1",
            "sys_db_pool_size": 20,
        }
    )

    @DBOS.workflow(name="noop")
    def noop(payload):
        return None

    DBOS.launch()
    DBOS.register_queue("q", polling_interval_sec=POLL_SECONDS)
    print("ready", flush=True)
    while True:
        time.sleep(1)


def main() -> None:
    given = arguments(__doc__).parse_args()
    if given.consume:
        consume(given.url)
    worker_process = consumer()  # it makes the schema
    client = DBOSClient(system_database_url=given.url)
    record = psycopg.connect(given.url, autocommit=True)
    with ThreadPoolExecutor(THREADS) as threads:
        began = time.time()
        calls = [threads.submit(client.enqueue, dict(WHAT), PAYLOAD) for _ in range(given.number)]
        for call in calls:
            call.result()
        sent = time.time()

    def done() -> bool:
        count = record.execute(
            "select count(*) from dbos.workflow_status where status = 'SUCCESS'"
        ).fetchone()
        return count[0] >= given.number

    report(given.number, began, sent, until(done))
    end(worker_process)
    os._exit(0)  # its threads do not end


if __name__ == "__main__":
    main()
