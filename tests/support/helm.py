"""Renders the chart with the Helm that the test bed is built with, or the one that HELM names."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts/everesthood"
NAMESPACE = "everesthood-system"

Object = dict[str, Any]


class HelmFailed(Exception):
    """Helm said no; the text is what it said."""


@cache
def binary() -> str:
    """Return the path of helm."""
    if named := os.environ.get("HELM"):
        return named
    from tests.cluster import binaries  # noqa: PLC0415 - builds on first use

    return str(binaries.component("helm"))


def helm(*arguments: str) -> str:
    """Run helm and return what it prints."""
    done = subprocess.run([binary(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HelmFailed(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def template(*arguments: str) -> str:
    """Render the chart, as text."""
    return helm("template", "everesthood", str(CHART), "--namespace", NAMESPACE, *arguments)


def parse(text: str) -> list[Object]:
    """Return the objects of a YAML stream."""
    return [document for document in YAML(typ="safe").load_all(text) if document]


@cache
def render(*settings: str) -> list[Object]:
    """Render the chart with `key=value` settings; the objects are shared, so they are not to be changed."""
    return parse(template(*(part for setting in settings for part in ("--set-json", setting))))
