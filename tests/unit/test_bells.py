"""A bell built by hand is what Celery would have sent."""

import json

from celery import Celery
from kombu.transport.memory import Channel

from everesthood.adapters.celery import build_app
from everesthood.apis.wire import QueueLease
from everesthood.domain.bells import DRAIN_TASK, bell_key, bell_message, queue_key

OF_THE_SENDER = ("origin", "reply_to")
FRESH = ("id", "root_id", "correlation_id", "delivery_tag")


def published_by_celery(queue: str, monkeypatch) -> dict:
    sent = []
    monkeypatch.setattr(Channel, "_put", lambda _self, _queue, message, **_: sent.append(message))
    app = Celery("everesthood", broker="memory://", set_as_current=False)
    app.conf.update(task_ignore_result=True, task_serializer="json")

    @app.task(name=DRAIN_TASK, shared=False)  # else every later application of the process has it
    def drain():
        pass

    drain.apply_async(queue=queue)
    return sent[0]


def comparable(part: dict) -> dict:
    return {key: "…" if key in FRESH + OF_THE_SENDER else value for key, value in part.items()}


def test_a_bell_equals_the_message_that_celery_publishes(monkeypatch):
    """The pinned Celery takes our message for its own, field by field."""
    theirs = published_by_celery("drain.abc", monkeypatch)
    ours = json.loads(bell_message("abc", message_id="m", delivery_tag="t"))

    assert ours["body"] == theirs["body"]
    assert {k: v for k, v in ours.items() if k.startswith("content")} == {
        k: v for k, v in theirs.items() if k.startswith("content")
    }
    assert comparable(ours["headers"]) == comparable(theirs["headers"])
    assert comparable(ours["properties"]) == comparable(theirs["properties"])


def test_the_ids_of_a_bell_are_the_given_ones():
    """Celery drops a message whose id it has seen, so the caller's fresh ids stand in every place."""
    message = json.loads(bell_message("abc", message_id="m-1", delivery_tag="t-1"))

    assert {message["headers"][key] for key in ("id", "root_id")} == {"m-1"}
    assert message["properties"]["correlation_id"] == "m-1"
    assert message["properties"]["delivery_tag"] == "t-1"


def test_a_bell_carries_no_time_and_no_argument():
    """Nothing waits in a worker's memory: no ETA, no countdown, no expiry, no retry, no payload."""
    headers = json.loads(bell_message("abc", message_id="m", delivery_tag="t"))["headers"]

    assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
    assert (headers["argsrepr"], headers["kwargsrepr"]) == ("()", "{}")


def test_keys_of_an_instance_stand_under_its_prefix():
    """Everything of an instance is within the keys that its user may touch."""
    assert queue_key("u-1", "abc") == "agi:u-1:drain.abc"
    assert bell_key("u-1", "abc") == "agi:u-1:bell.abc"


LEASE = QueueLease(
    host="redis.example", port=6380, user="agi-u", password="p", prefix="agi:u:", queue="drain.r", tls=True
)


def app_of(lease: QueueLease) -> Celery:
    return build_app(lease, name="pod-1", on_bell=lambda: None)


def test_the_worker_has_none_of_the_traps_of_celery_on_redis():
    """Early acknowledgement, no prefetch, no results, no channels, JSON only, reconnecting for ever."""
    conf = app_of(LEASE).conf

    expected = {
        "task_acks_late": False,
        "worker_disable_prefetch": True,
        "worker_prefetch_multiplier": 1,
        "result_backend": None,
        "task_ignore_result": True,
        "accept_content": ["json"],
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "task_create_missing_queues": False,
    }
    assert {key: conf[key] for key in expected} == expected
    options = conf.broker_transport_options
    assert options["global_keyprefix"] == "agi:u:"
    assert options["max_connections"] >= 2 * 2


def test_tls_to_the_broker_checks_certificate_and_name():
    """A worker that is told to use TLS refuses a broker that cannot prove who it is."""
    plain = app_of(QueueLease(host="::1", port=1, user="u", password="p/w", prefix="p:", queue="q"))
    checked = app_of(LEASE).conf
    pinned = build_app(
        QueueLease(
            host="r", port=1, user="u", password="p", prefix="p:", queue="q", tls=True, ca="-----BEGIN…"
        ),
        name="n",
        on_bell=lambda: None,
    )

    assert plain.conf.broker_url == "redis://u:p%2Fw@[::1]:1/0"
    assert not plain.conf.broker_use_ssl
    assert checked.broker_url.startswith("rediss://")
    assert checked.broker_use_ssl["ssl_cert_reqs"].name == "CERT_REQUIRED"
    assert checked.broker_use_ssl["ssl_check_hostname"] is True
    assert pinned.conf.broker_use_ssl["ssl_ca_data"] == "-----BEGIN…"
