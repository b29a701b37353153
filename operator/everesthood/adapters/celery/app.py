"""The Celery application of one worker: one queue, one task, acknowledged as soon as it is heard."""

import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from celery import Celery
from kombu.entity import Queue

from everesthood.apis.wire import QueueLease
from everesthood.domain.bells import DRAIN_TASK

POOL_THREADS = 2
"""Two, so that a bell that comes while another is being heard does not wait for it."""


def build_app(lease: QueueLease, *, name: str, on_bell: Callable[[], None]) -> Celery:
    """Return an application whose `drain` task calls `on_bell`."""
    app = Celery("everesthood", set_as_current=False, fixups=set())
    app.conf.update(_broker(lease, name), **_doorbell(lease.queue))

    @app.task(name=DRAIN_TASK, ignore_result=True, shared=False)  # type: ignore[untyped-decorator]
    def drain() -> None:
        on_bell()

    return app


def _broker(lease: QueueLease, name: str) -> dict[str, Any]:
    host = f"[{lease.host}]" if ":" in lease.host else lease.host
    login = f"{quote(lease.user, safe='')}:{quote(lease.password, safe='')}"
    scheme = "rediss" if lease.tls else "redis"
    return {
        "broker_url": f"{scheme}://{login}@{host}:{lease.port}/0",
        "broker_use_ssl": _tls(lease.ca) if lease.tls else None,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "global_keyprefix": lease.prefix,
            # Only for a message in the instant between heard and acknowledged.
            "visibility_timeout": 60,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "max_connections": 20,
            "health_check_interval": 10,
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "client_name": f"agi:{name}",
        },
    }


def _tls(ca: str) -> dict[str, Any]:
    checks = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}
    return {**checks, "ssl_ca_data": ca} if ca else checks


def _doorbell(queue: str) -> dict[str, Any]:
    return {
        "task_queues": [Queue(queue, routing_key=queue)],  # type: ignore[no-untyped-call]
        "task_default_queue": queue,
        "task_create_missing_queues": False,
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_serializer": "json",
        # Never pickle: a message of a broken broker must not become code.
        "accept_content": ["json"],
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
    }
