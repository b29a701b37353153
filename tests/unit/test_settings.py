"""Settings are the only reader of the environment, and documented."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from everesthood.settings import Settings, variable_of

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_described():
    """Whoever configures a process finds a sentence for each key."""
    assert [f.name for f in fields(Settings) if not f.metadata["description"].endswith(".")] == []


def test_the_example_names_every_setting():
    """`.env.example` lists each key once, and no other."""
    keys = re.findall(r"^# (EVERESTHOOD_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert keys == [variable_of(f.name) for f in fields(Settings)]


def test_nothing_else_reads_the_environment():
    """A setting cannot hide: only the settings module and the CLI look at the environment."""
    package = ROOT / "operator/everesthood"
    readers = [p for p in package.rglob("*.py") if "os.environ" in p.read_text()]

    assert [p for p in readers if "cli" not in p.parts and p.name != "settings.py"] == []


def test_the_environment_sets_what_it_names(monkeypatch):
    """A variable arrives as the type of its setting, and what is not named keeps its default."""
    for name, text in {"REDIS_PORT": "7000", "REDIS_TLS": "true", "BELL_REPAIR_SECONDS": "3"}.items():
        monkeypatch.setenv(f"EVERESTHOOD_{name}", text)

    told = Settings.read()

    assert told == Settings(redis_port=7000, redis_tls=True, bell_repair_seconds=3.0)


@pytest.mark.parametrize(
    ("name", "text"), [("REDIS_PORT", "six"), ("REDIS_PORT", ""), ("REDIS_TLS", "perhaps")]
)
def test_a_value_that_makes_no_sense_is_named_and_not_shown(monkeypatch, name, text):
    """A process that is told nonsense ends with the name of the variable, without repeating its text."""
    monkeypatch.setenv(f"EVERESTHOOD_{name}", text)

    with pytest.raises(SystemExit) as ended:
        Settings.read()

    assert f"EVERESTHOOD_{name} must be of type" in str(ended.value)
    assert not text or text not in str(ended.value)


def test_the_database_address_is_not_shown():
    """Settings can be logged: the password in the address of the record is not part of their text."""
    assert "hunter2" not in repr(Settings(database_url="postgresql://a:hunter2@host/db"))


def test_a_worker_does_not_load_what_only_the_api_needs():
    """Pydantic describes the API and would be a sixth of a resting worker's memory, so no worker imports it."""
    loads = "import sys, everesthood.entrypoints.worker.main as _; sys.exit('pydantic' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", loads], check=False).returncode == 0
