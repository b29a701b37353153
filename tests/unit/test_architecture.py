"""The shape of the code is what the documentation draws."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_picture_shows_the_rooms_of_the_import_contract():
    """A reader of the architecture page sees the rooms that the import contracts enforce, in their order."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["type"] == "layers")
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    picture = page.split("```text", 1)[1].split("```", 1)[0]

    assert re.findall(r"^([a-z]+)\s{2,}\S", picture, re.MULTILINE) == layers


def test_what_authors_import_brings_no_installation_along():
    """The SDK and its rehearsal are held by a contract to what runs without any server."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = {f"everesthood.{room}" for room in ("usecases", "adapters", "bootstrap", "entrypoints")}
    held = {m for c in contracts if rooms <= set(c.get("forbidden_modules", [])) for m in c["source_modules"]}

    assert held == {"everesthood.sdk", "everesthood.testing"}


def test_every_action_is_pinned_by_its_commit():
    """No tag that somebody moves can bring other code into a build, and a comment says which version it is."""
    used = [
        line.strip()
        for file in (ROOT / ".github/workflows").glob("*.yaml")
        for line in file.read_text().splitlines()
        if "uses:" in line
    ]

    assert used
    assert [line for line in used if not re.fullmatch(r"(- )?uses: \S+@[0-9a-f]{40} # v[\d.]+", line)] == []


def test_the_folder_named_operator_is_not_a_package():
    """`import operator` finds the standard library, from the repository's root too."""
    assert not (ROOT / "operator/__init__.py").exists()
    assert not list((ROOT / "operator").rglob("operator.py"))


def test_no_room_is_a_drawer():
    """Every module is named for what it does, none for being left over."""
    drawers = {"utils", "helpers", "common", "core", "base", "manager"}

    assert [p for p in (ROOT / "operator").rglob("*.py") if p.stem in drawers] == []
