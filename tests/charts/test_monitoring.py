"""Alerts: each measures what exists and tells a person what to do."""

import re

import pytest
from tests.support.helm import ROOT, Object, render

RUNBOOKS = ROOT / "docs/runbooks"
SOURCES = "".join(path.read_text() for path in (ROOT / "operator").rglob("*.py"))


@pytest.fixture(scope="module")
def alerts() -> list[Object]:
    """Return the alerts of the chart."""
    objects = render("monitoring.prometheusRule.enabled=true")
    (rule,) = [o for o in objects if o["kind"] == "PrometheusRule"]
    return [alert for group in rule["spec"]["groups"] for alert in group["rules"]]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert(alerts: list[Object]):
    """Whoever is woken finds a page with the alert's name, and no page is about nothing."""
    assert {f"{a['alert']}.md" for a in alerts} == {p.name for p in RUNBOOKS.glob("*.md")}
    assert all(a["annotations"]["runbook_url"].endswith(f"/{a['alert']}.md") for a in alerts)


def test_alerts_measure_what_the_processes_export(alerts: list[Object]):
    """An alert on a metric that nobody exports would be silent for ever."""
    named = {m for a in alerts for m in re.findall(r"everesthood_[a-z_]+", a["expr"])}

    assert named
    assert [
        m for m in named if f'"{m}"' not in SOURCES and f'"{m.removesuffix("_total")}"' not in SOURCES
    ] == []


def test_without_the_toggle_there_is_nothing_for_prometheus():
    """A cluster without the Prometheus operator can install the chart as it is."""
    assert [o for o in render() if "monitoring.coreos.com" in o["apiVersion"]] == []
