"""Listens to the queue in a thread of its own, and says when it hears and when it is deaf."""

import logging
import time
from collections.abc import Callable
from typing import Any

import kombu.transport.redis  # noqa: F401 - Celery would load it only when it connects
from celery import bootsteps
from celery.worker import state
from kombu.asynchronous import set_event_loop

from everesthood.adapters.celery.app import POOL_THREADS, build_app
from everesthood.apis.wire import QueueLease

_TURN_SECONDS = 5.0
# It logs a stack trace as a warning whenever the broker goes away; the line below says the same.
logging.getLogger("celery.worker.consumer.consumer").setLevel(logging.ERROR)


class BellConsumer:
    """A Celery worker without signal handlers, gossip, mingle, heartbeat or remote control."""

    def __init__(
        self,
        lease: QueueLease,
        *,
        name: str,
        on_bell: Callable[[], None],
        on_line: Callable[[bool], None],
    ) -> None:
        """Prepare to listen; `on_line` is told when the queue can be heard and when no longer."""
        # Both are global to Celery: what the last consumer of this process left there would stop this
        # one, or give it a loop that has ended.
        state.should_stop = None
        set_event_loop(None)
        self._name = name
        self._app = build_app(lease, name=name, on_bell=on_bell)
        self._app.steps["consumer"].add(_line_step(on_line, self._turned))
        self.last_turn = time.monotonic()
        """When the consumer's loop last went round; meaningful while the line is up."""

    def run(self) -> None:
        """Listen until stopped; reconnect for ever."""
        # The pool's threads look for a message's task in the process's default application.
        self._app.set_default()
        worker = self._app.WorkController(
            hostname=f"agi@{self._name}",
            pool="threads",
            concurrency=POOL_THREADS,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()

    def stop(self) -> None:
        """Make `run` return within about a second."""
        state.should_stop = 0

    def _turned(self) -> None:
        self.last_turn = time.monotonic()


def _line_step(on_line: Callable[[bool], None], on_turn: Callable[[], None]) -> type:
    class Line(bootsteps.StartStopStep):  # type: ignore[misc]
        """Stands after the consumer of tasks: started when the queue is heard, stopped when it is lost."""

        requires = frozenset({"celery.worker.consumer.tasks:Tasks"})

        def start(self, consumer: Any) -> None:  # noqa: ANN401 - Celery has no types
            on_turn()
            on_line(True)
            consumer.timer.call_repeatedly(_TURN_SECONDS, on_turn)

        def stop(self, _consumer: Any) -> None:  # noqa: ANN401
            on_line(False)

    return Line
