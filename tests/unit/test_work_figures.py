"""What a worker counts."""

import contextvars

import structlog
from prometheus_client import REGISTRY

from everesthood.adapters.telemetry.work_figures import WorkerMetrics


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_runs_steps_and_calls_are_counted() -> None:
    """Each kind of end has its own count."""
    figures = WorkerMetrics()
    before = value("everesthood_worker_runs_total", outcome="succeeded")
    figures.run_ended("succeeded", 0.1)
    figures.step_ended("http", "failed", 0.1)
    figures.holding(3, 1)
    figures.gateway_called("work", "ok", 0.01)

    assert value("everesthood_worker_runs_total", outcome="succeeded") == before + 1
    assert value("everesthood_worker_steps_total", kind="http", state="failed") >= 1
    assert value("everesthood_worker_gateway_calls_total", call="work", outcome="ok") >= 1
    assert value("everesthood_worker_running_runs") == 3
    assert value("everesthood_worker_waiting_runs") == 1


def test_a_runs_ids_stand_in_its_log_lines_only() -> None:
    """The run is bound in the context of its own task, and nowhere else."""
    inside = contextvars.copy_context()
    inside.run(WorkerMetrics().enter_run, "run-1", "request-1", 2)

    assert inside.run(structlog.contextvars.get_contextvars) == {
        "run": "run-1", "request_id": "request-1", "attempt": 2,
    }  # fmt: skip
    assert "run" not in structlog.contextvars.get_contextvars()
