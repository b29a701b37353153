"""A bell as it lies in a queue: the Celery message that wakes a worker, built without Celery.

Publishing through Celery would need a connection per key prefix and block the event loop.
"""

import json
from typing import Final

from everesthood.apis.names import queue_name, queue_prefix

DRAIN_TASK: Final = "everesthood.drain"
BELL_SECONDS: Final = 2.0
"""How long a bell counts as ringing when nobody answers; then the queue may be rung again."""

_NO_ARGUMENTS: Final = (
    "W1tdLCB7fSwgeyJjYWxsYmFja3MiOiBudWxsLCAiZXJyYmFja3MiOiBudWxsLCAiY2hhaW4iOiBudWxsLCAiY2hvcmQiOiBudWxsfV0="
)
"""Base64 of `[[], {}, {callbacks, errbacks, chain, chord: null}]`: a call without arguments."""


def queue_key(instance_uid: str, revision: str) -> str:
    """Return the list that workers of this revision listen to."""
    return queue_prefix(instance_uid) + queue_name(revision)


def bell_key(instance_uid: str, revision: str) -> str:
    """Return the key that is set while a bell rings."""
    return f"{queue_prefix(instance_uid)}bell.{revision}"


def bell_message(revision: str, *, message_id: str, delivery_tag: str) -> str:
    """Return a `drain` message; both ids must be fresh, or Celery takes it for one it has seen."""
    headers: dict[str, object] = {
        "lang": "py",
        "task": DRAIN_TASK,
        "id": message_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": message_id,
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "everesthood",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties: dict[str, object] = {
        "correlation_id": message_id,
        "reply_to": "",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": queue_name(revision)},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": delivery_tag,
    }
    return json.dumps(
        {
            "body": _NO_ARGUMENTS,
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": headers,
            "properties": properties,
        }
    )
