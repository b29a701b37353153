"""Every bad manifest in tests/fixtures/invalid gets exactly the sentence that it expects."""

from pathlib import Path

import pytest

from everesthood.entrypoints.cli.validate import UNREADABLE, check

FOLDER = Path(__file__).parents[1] / "fixtures" / "invalid"
FILES = sorted(FOLDER.glob("*.yaml"))


def expected(path: Path) -> list[str]:
    lines = path.read_text().splitlines()
    return [line.removeprefix("# expect: ") for line in lines if line.startswith("# expect: ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_bad_manifest_gets_its_sentence_and_line(path):
    """A person reads the field, what is wrong with it, and the line on which it stands."""
    report = check([str(path)])
    found = [f for f in [*report.unreadable, *report.findings] if f.level == "problem"]
    length = len(path.read_text().splitlines())

    assert [f"{f.path}: {f.message}".removeprefix(": ") for f in found] == expected(path)
    assert all(1 < f.line <= length for f in found)
    assert report.exit_code in (1, UNREADABLE)


def test_there_are_enough_bad_manifests():
    """Each rule has a manifest that breaks it."""
    assert len(FILES) >= 60
