"""What workers of an installation share, as its settings say it."""

import pytest

from everesthood.bootstrap.installation import site_of
from everesthood.domain.errors import Invalid
from everesthood.domain.workers import Scheduling
from everesthood.entrypoints.controller import main
from everesthood.settings import Settings


def settings(**changes):
    return Settings(worker_image="everesthood:1", **changes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("internal_peers", "{"),
        ("internal_peers", '{"to": []}'),
        ("metrics_peers", "monitoring"),
        ("metrics_peers", '["monitoring"]'),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name, text):
    """A controller with a wrong list refuses it at its start, by name and in one sentence."""
    with pytest.raises(Invalid, match=rf"^EVERESTHOOD_{name.upper()} must be a JSON list of [^.]+\.$"):
        site_of(settings(**{name: text}))


def test_workers_are_placed_as_a_pod_spells_it():
    """What the chart passes on of its own pods' placement reads as such, and nothing is added to it."""
    text = (
        '{"nodeSelector": {"pool": "agents"}, "imagePullSecrets": [{"name": "pull"}],'
        ' "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]}'
    )
    found = site_of(settings(worker_scheduling=text)).scheduling

    assert found.node_selector == {"pool": "agents"}
    assert found.image_pull_secrets == ({"name": "pull"},)
    assert found.tolerations == (
        {"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
    )
    assert site_of(settings()).scheduling == Scheduling()


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"nodeSelecter": {}}', '{"nodeSelector": {"a": 1}}', '{"tolerations": [{"keys": "a"}]}',
     '{"imagePullSecrets": ["pull"]}'],
)  # fmt: skip
def test_a_placement_that_no_pod_could_have_is_refused(text):
    """A controller that could not place workers says at its start which setting is wrong, and where."""
    with pytest.raises(Invalid, match=r"^EVERESTHOOD_WORKER_SCHEDULING must be a JSON object .+\.$"):
        site_of(settings(worker_scheduling=text))


def test_a_controller_that_cannot_start_says_why(monkeypatch, caplog):
    """A wrong setting ends the controller with its sentence in the log, and with no traceback."""

    async def refuse(_):
        raise Invalid("EVERESTHOOD_WORKER_SCHEDULING must be a JSON object.")

    monkeypatch.setattr(main, "configure_logging", lambda *_: None)
    monkeypatch.setattr(main, "run", refuse)

    with pytest.raises(SystemExit) as ended:
        main.main()

    assert ended.value.code == 1
    assert [(r.getMessage(), r.exc_info) for r in caplog.records] == [
        ("cannot start: EVERESTHOOD_WORKER_SCHEDULING must be a JSON object.", None)
    ]
