"""Settings are the only reader of the environment, and documented."""

import re
from pathlib import Path

from everesthood.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_every_setting_is_described():
    """Whoever configures a process finds a sentence for each key."""
    assert [n for n, f in Settings.model_fields.items() if not (f.description or "").endswith(".")] == []


def test_the_example_names_every_setting():
    """`.env.example` lists each key once, and no other."""
    keys = re.findall(r"^# (EVERESTHOOD_[A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE)

    assert keys == [f"EVERESTHOOD_{name.upper()}" for name in Settings.model_fields]


def test_nothing_else_reads_the_environment():
    """A setting cannot hide: only the settings module and the CLI look at the environment."""
    package = ROOT / "operator/everesthood"
    readers = [p for p in package.rglob("*.py") if "os.environ" in p.read_text()]

    assert [p for p in readers if "cli" not in p.parts and p.name != "settings.py"] == []
