"""What a worker does, as metrics; and the run's ids in every log line below it."""

from functools import cache
from typing import Literal

import structlog
from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 900, 3600)

_RUNS = Counter("everesthood_worker_runs", "Attempts that ended on this worker.", ["outcome"])
_RUN_SECONDS = Histogram("everesthood_worker_run_seconds", "Length of attempts.", buckets=_SECONDS)
_STEPS = Counter("everesthood_worker_steps", "Steps that ended on this worker.", ["kind", "state"])
_STEP_SECONDS = Histogram("everesthood_worker_step_seconds", "Length of steps.", ["kind"], buckets=_SECONDS)
_RUNNING = Gauge("everesthood_worker_running_runs", "Runs that execute.")
_WAITING = Gauge("everesthood_worker_waiting_runs", "Runs claimed ahead, waiting for a slot.")
_CALLS = Counter("everesthood_worker_gateway_calls", "Calls to the gateway.", ["call", "outcome"])
_CALL_SECONDS = Histogram("everesthood_worker_gateway_call_seconds", "Length of calls.", ["call"])


# Looking a labelled metric up takes longer than counting with it.
_run_counter = cache(_RUNS.labels)
_step_counter = cache(_STEPS.labels)
_step_clock = cache(_STEP_SECONDS.labels)


class WorkerMetrics:
    """The port `WorkFigures`."""

    def enter_run(self, run: str, request_id: str, attempt: int) -> None:
        """Bind the run to all log lines of the calling task."""
        structlog.contextvars.bind_contextvars(run=run, request_id=request_id, attempt=attempt)

    def run_ended(self, outcome: str, seconds: float) -> None:
        """Count a finished attempt."""
        _run_counter(outcome).inc()
        _RUN_SECONDS.observe(seconds)

    def step_ended(self, kind: str, state: str, seconds: float) -> None:
        """Count a finished step."""
        _step_counter(kind, state).inc()
        _step_clock(kind).observe(seconds)

    def holding(self, running: int, waiting: int) -> None:
        """Note how many runs are held."""
        _RUNNING.set(running)
        _WAITING.set(waiting)

    def gateway_called(self, call: str, outcome: Literal["ok", "failed"], seconds: float) -> None:
        """Count a call to the gateway."""
        _CALLS.labels(call, outcome).inc()
        _CALL_SECONDS.labels(call).observe(seconds)
