"""Runs other programs: argv lists, a clean environment, and an error that shows what the program said."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster.settings import TestBedError

Argument = str | Path


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without proxies, which must not see cluster addresses."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    kept["PATH"] = f"{kept.get('PATH', '/usr/bin:/bin')}:/usr/local/sbin:/usr/sbin:/sbin"
    return kept | extra


def run(
    *argv: Argument,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Return what the command prints; raise with its last lines when it fails."""
    done = _finished(argv, stdin=stdin, env=env, cwd=cwd)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise TestBedError(f"`{' '.join(map(str, argv))}` failed with {done.returncode}:\n{tail}")
    return done.stdout


def attempt(*argv: Argument, stdin: str | None = None) -> bool:
    """Run a command whose failure is an answer and not an error."""
    return _finished(argv, stdin=stdin, env=None, cwd=None).returncode == 0


def passthrough(*argv: Argument, env: Mapping[str, str] | None = None) -> int:
    """Run a command on this terminal and return its exit code."""
    return subprocess.run([*map(str, argv)], env=env, check=False).returncode


def _finished(
    argv: Sequence[Argument],
    *,
    stdin: str | None,
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [*map(str, argv)],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=env or environment(),
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise TestBedError(f"the program `{argv[0]}` is not installed") from error
