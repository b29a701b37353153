"""Installs the peers from their registries into the cache, outside of the checkout; pinned, and once."""

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.settings import cache

PEERS = Path(__file__).parent / "peers"
_OLDEST = 12
"""Oban needs Python 3.12; so all Python peers run on one that is newer or as new, in their favour."""


class Missing(Exception):
    """What this machine lacks, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """Commands that run a peer's script."""

    python: tuple[str, ...]
    node: tuple[str, ...]
    environment: dict[str, str]


def install() -> Installed:
    """Return how to run the peers, having installed them at the first time."""
    folder = cache() / "peers" / _digest()
    if not (folder / ".ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"installing the peers into {folder}", flush=True)
        _python(folder)
        _node(folder)
        (folder / ".ready").touch()
    return Installed(
        python=(str(folder / "python" / "bin" / "python"), "-W", "ignore"),
        node=(_program("node"),),
        environment={"PYTHONPYCACHEPREFIX": str(folder / "bytecode")},
    )


def script_of_node(name: str) -> Path:
    """Return where Node.js runs a script from: beside its packages."""
    return cache() / "peers" / _digest() / name


def _python(folder: Path) -> None:
    subprocess.run([_newer_python(), "-m", "venv", folder / "python"], check=True)
    pip = [folder / "python" / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", PEERS / "requirements.txt"], check=True)


def _node(folder: Path) -> None:
    for file in ("package.json", "package-lock.json", "bullmq_peer.mjs"):
        shutil.copy(PEERS / file, folder / file)
    npm = [_program("npm"), "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
    subprocess.run(npm, cwd=folder, check=True)


def _newer_python() -> str:
    """Return a Python that every peer runs on, of the path or of pyenv."""
    versions = [f"python3.{minor}" for minor in range(_OLDEST, _OLDEST + 4)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    of_pyenv = [
        str(found) for minor in range(_OLDEST, _OLDEST + 4) for found in pyenv.glob(f"3.{minor}.*/bin/python")
    ]
    for candidate in [*filter(None, map(shutil.which, versions)), *of_pyenv]:
        if (
            subprocess.run([candidate, "-c", "import venv, ssl"], check=False, capture_output=True).returncode
            == 0
        ):
            return candidate
    raise Missing(f"The peers need Python 3.{_OLDEST} or newer: install one and put it on the path.")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"BullMQ needs {name}: install Node.js 20 or newer.")
    return found


def _digest() -> str:
    files = sorted(file for file in PEERS.iterdir() if file.suffix in {".txt", ".json", ".mjs"})
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()[:16]
