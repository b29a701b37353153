"""The samples, as far as they can be judged without a cluster."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

from everesthood.adapters.languages import Languages
from everesthood.entrypoints.cli.validate import check

SAMPLES = Path(__file__).resolve().parents[2] / "manifests/samples"
AGENTS = ("expense-check", "release-digest", "support-triage")
POLICY = {"currency": "EUR", "receiptFrom": "25.00", "limits": {"meal": "60.00"}}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(path.read_text()))


@pytest.fixture
def expenses() -> ModuleType:
    """Return the module of the expense sample, as its image has it."""
    spec = importlib.util.spec_from_file_location("expenses", SAMPLES / "expense-check/expenses.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_samples_are_valid_where_their_server_is_allowed():
    """With the chart values that come with them, the samples pass every rule."""
    (values,) = documents(SAMPLES / "values.yaml")
    hosts = frozenset(f"{entry['host']}:{entry['port']}" for entry in values["egress"]["internal"])
    report = check([str(SAMPLES / agent) for agent in AGENTS], internal_hosts=hosts)

    assert [finding.text() for finding in report.findings] == []
    assert report.checked == 7


def test_the_manifests_of_the_guides_are_valid():
    """What a reader copies from a guide passes every rule."""
    report = check([str(path) for path in sorted((SAMPLES.parents[1] / "docs/how-to").rglob("*.yaml"))])

    assert [finding.text() for finding in report.findings] == []


@pytest.mark.parametrize("agent", AGENTS)
def test_each_example_input_is_accepted(agent: str):
    """The example input of a sample matches the schema that its template demands."""
    template = documents(SAMPLES / agent / "agent.yaml")[0]
    given = json.loads((SAMPLES / "inputs" / f"{agent}.json").read_text())

    assert Languages().check(template["spec"]["inputSchema"], given) == []


@pytest.mark.parametrize(
    ("line", "rules"),
    [
        ({}, []),
        ({"amount": "60.00", "receipt": "r"}, []),
        ({"amount": "60.01", "receipt": "r"}, ["limit"]),
        ({"amount": "25.00"}, ["receipt"]),
        ({"amount": "24.99"}, []),
        ({"category": "other", "amount": "900.00", "receipt": "r"}, []),
    ],
)
def test_a_line_breaks_the_rules_that_it_breaks(expenses: ModuleType, line: dict[str, str], rules: list[str]):
    """Limits and receipts count to the cent."""
    lines = [{"date": "2026-03-02", "category": "meal", "merchant": "Canteen", "amount": "9.00", **line}]
    found = [*expenses.over_limit(lines, POLICY["limits"]), *expenses.no_receipt(lines, POLICY)]

    assert [finding["rule"] for finding in found] == rules


def test_a_line_that_stands_there_twice_is_found_once(expenses: ModuleType):
    """A double claim is one finding that says how often it is claimed."""
    line = {"date": "2026-03-04", "category": "travel", "merchant": "Taxi", "amount": "23.00"}

    assert [f["why"] for f in expenses.twice([line, line, {**line, "amount": "24.00"}])] == [
        "23.00 is claimed 2 times"
    ]
