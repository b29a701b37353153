"""A plain Celery application with one task that notes how long it waited: the peer of a benchmark."""

import os
import time

from celery import Celery
from redis import Redis

BROKER = "PLAIN_CELERY_BROKER"
WAITS = "plain-celery-waits"

app = Celery("plain", broker=os.environ.get(BROKER))
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
_redis = Redis.from_url(os.environ[BROKER]) if BROKER in os.environ else None


@app.task(name="note", shared=False)
def note(sent_at: float) -> None:
    began = time.time()
    assert _redis is not None
    _redis.rpush(WAITS, began - sent_at)
