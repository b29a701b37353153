"""Celery on Redis: acks late, retry armed, no result backend. Done: the queue and what is unacknowledged are empty.

Gossip, mingle and heartbeat are off, which is in its favour. It adds one job a call, one call at a time.
"""

import os
import signal
import subprocess
import sys
import time

import redis
from celery import Celery
from shared import PAYLOAD, arguments, report, until

URL = "PEER_REDIS"
app = Celery("celery_peer", broker=os.environ.get(URL))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=4,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 3600, "max_connections": 200},
)
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR")


@app.task(name="noop", bind=True, autoretry_for=(Exception,), max_retries=3, retry_backoff=True)
def noop(self, payload):
    return None


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pool", choices=["threads", "prefork"], default="threads")
    given = parser.parse_args()
    os.environ[URL] = app.conf.broker_url = given.url
    server = redis.Redis.from_url(given.url)
    server.flushdb()

    def empty() -> bool:
        return not server.llen("celery") and not server.hlen("unacked")

    worker = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "celery", "-q", "-A", "celery_peer", "worker",
         "-P", given.pool, "-c", str(given.concurrency), *QUIET],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(50):
        noop.delay(PAYLOAD)
    until(empty)
    began = time.time()
    for _ in range(given.number):
        noop.delay(PAYLOAD)
    sent = time.time()
    report(given.number, began, sent, until(empty))
    worker.send_signal(signal.SIGTERM)
    worker.wait()


if __name__ == "__main__":
    main()
