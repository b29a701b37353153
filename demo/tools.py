"""kubectl, helm and everesthood, aimed at one cluster."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Object = dict[str, Any]


class ToolFailed(Exception):  # noqa: N818 - reads as what happened
    """A command said no; the text is what it said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """The programs that a person would use, for one cluster."""

    kubeconfig: Path
    kubectl_path: Path
    helm_path: Path
    environment: Mapping[str, str]
    """In which these programs find the cluster, with no proxy in between."""

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 300) -> str:
        """Return what kubectl prints, or raise with what it complains about."""
        return self._run([str(self.kubectl_path), *arguments], stdin=stdin, timeout=timeout)

    def helm(self, *arguments: str, timeout: float = 600) -> str:
        """Return what helm prints."""
        return self._run([str(self.helm_path), *arguments], timeout=timeout)

    def everesthood(self, *arguments: str, timeout: float = 300) -> str:
        """Return what our own command line prints."""
        return self._run([str(self.cli_path), *arguments], timeout=timeout)

    @property
    def cli_path(self) -> Path:
        """Return where our command line is: beside the Python that runs this."""
        return Path(sys.executable).with_name("everesthood")

    def get(self, *arguments: str) -> Object:
        """Return one object, or a List, as kubectl sees it."""
        found: Object = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Object]:
        """Return the objects of a kind."""
        found: list[Object] = self.get(*arguments)["items"]
        return found

    def _run(self, argv: list[str], *, stdin: str | None = None, timeout: float) -> str:
        done = subprocess.run(  # noqa: S603 - no shell, and our own argv
            argv,
            input=stdin,
            stdin=None if stdin is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self.environment,
            check=False,
        )
        if done.returncode:
            raise ToolFailed(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    @contextmanager
    def forwarded(self, namespace: str, target: str, port: int) -> Iterator[int]:
        """Yield a local port that leads to a Service or pod for as long as the block lasts."""
        argv = [str(self.kubectl_path), "-n", namespace, "port-forward", target, f":{port}"]
        with subprocess.Popen(  # noqa: S603 - no shell, and our own argv
            argv, stdout=subprocess.PIPE, text=True, env=self.environment
        ) as process:
            try:
                yield _forwarded_port(process, f"{namespace}/{target}")
            finally:
                process.terminate()


def _forwarded_port(process: "subprocess.Popen[str]", target: str) -> int:
    first = process.stdout.readline() if process.stdout else ""
    if "->" not in first:
        raise ToolFailed(f"kubectl cannot forward a port to {target}")
    # It prints a line for each connection; unread, they would stop it in the end.
    threading.Thread(target=lambda: [None for _ in process.stdout or ()], daemon=True).start()
    return int(first.split("->")[0].rsplit(":", 1)[1])
