"""The image's Python packages as wheels, fetched on the host by the lock file's hashes."""

import os
import shutil
import venv
from hashlib import sha256
from pathlib import Path

from tests.cluster.commands import environment, run
from tests.cluster.locks import locked
from tests.cluster.progress import step
from tests.cluster.settings import cache

PYTHON = "3.13"
# Debian's Python brings no pip; a wheel of it runs as it is.
PIP = "pip==26.3 --hash=sha256:f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13\n"


def ensure(lock: Path) -> Path:
    """Return a folder with a wheel for each line of the lock file; its name is the content's key."""
    wanted = lock.read_text() + PIP
    folder = cache() / "wheelhouse" / sha256(f"{PYTHON}\n{wanted}".encode()).hexdigest()[:16]
    with locked("wheelhouse"):
        if not folder.exists():
            _download(wanted, folder)
    return folder


def _download(wanted: str, folder: Path) -> None:
    unfinished = folder.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    lock = unfinished / "requirements.txt"
    lock.write_text(wanted)
    # Without dependencies: the lock file is complete, and its markers are settled line by line.
    choice = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--python-version", PYTHON]
    # Proxies stay: the packages come from the network.
    env = dict(os.environ) | {"PATH": environment()["PATH"]}
    with step(f"Python {PYTHON} packages for the image, once a lock file"):
        run(
            _pip(),
            "download",
            "-q",
            "--disable-pip-version-check",
            *choice,
            "-d",
            unfinished,
            "-r",
            lock,
            env=env,
        )
    lock.unlink()
    unfinished.rename(folder)


def _pip() -> Path:
    """Return a pip of our own, because a managed environment may have none."""
    home = cache() / "pip"
    pip = home / "bin" / "pip"
    if not pip.exists():
        venv.create(home, with_pip=True, clear=True)
    return pip
