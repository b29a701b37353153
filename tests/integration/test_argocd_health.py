"""Argo CD's health script, run by the Lua that Valkey brings (5.1, as Argo CD's)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.valkey import running_valkey

pytestmark = pytest.mark.integration

SCRIPT = (Path(__file__).resolve().parents[2] / "manifests/argocd/health.lua").read_text()
WRAPPED = (
    f"local obj = cjson.decode(ARGV[1])\nlocal function health() {SCRIPT}\nend\nreturn cjson.encode(health())"
)


@pytest.fixture(scope="module")
def health():
    """Return a function that judges an object."""
    with running_valkey() as server, server.admin() as client:

        def judge(obj: dict[str, Any]) -> Any:
            return json.loads(client.eval(WRAPPED, 0, json.dumps(obj)))

        yield judge


def condition(kind: str, status: str) -> dict[str, str]:
    return {"type": kind, "status": status, "message": f"{kind} is {status}"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, "Progressing"),
        ({}, "Progressing"),
        ({"observedGeneration": 1, "conditions": [condition("Ready", "True")]}, "Progressing"),
        ({"observedGeneration": 2, "conditions": [condition("Ready", "True")]}, "Healthy"),
        ({"observedGeneration": 2, "conditions": [condition("Ready", "False")]}, "Degraded"),
        ({"observedGeneration": 2, "conditions": [condition("Ready", "Unknown")]}, "Progressing"),
        (
            {
                "observedGeneration": 2,
                "conditions": [condition("Ready", "True"), condition("Suspended", "True")],
            },
            "Suspended",
        ),
        (
            {
                "observedGeneration": 2,
                "conditions": [condition("Ready", "False"), condition("Reconciling", "True")],
            },
            "Progressing",
        ),
        (
            {
                "observedGeneration": 2,
                "conditions": [condition("Ready", "False"), condition("Stalled", "True")],
            },
            "Degraded",
        ),
    ],
)
def test_health_follows_the_conditions_of_this_generation(
    health: Callable[[dict[str, Any]], Any], status: dict[str, Any] | None, expected: str
):
    """Argo CD waits while the controller works, and says Degraded only of what is really stuck."""
    obj = {"metadata": {"generation": 2}, **({"status": status} if status is not None else {})}

    assert health(obj)["status"] == expected
