"""Starts and stops the cluster's processes: a record and a log for each, and no signal to a stranger."""

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.commands import environment
from tests.cluster.settings import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A process as written to disk; the start time tells it from a later one with the same pid."""

    name: str
    pid: int
    started: str
    argv: list[str]

    def is_alive(self) -> bool:
        return started_at(self.pid) == self.started


def started_at(pid: int) -> str | None:
    """Return the kernel's start time of a process, or None when it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, threads, start = fields[0], int(fields[17]), fields[19]
    # The first thread may be a zombie while others still hold ports and mounts.
    return None if state in "ZX" and threads <= 1 else start


def spawn(layout: Layout, name: str, argv: Sequence[str | Path], *, inside: bool = True) -> Record:
    """Start a component that outlives this process, by default inside the cluster's network."""
    full = [*map(str, argv)]
    # nsenter and not `ip netns exec`: that remounts /sys and so hides the cgroups from the kubelet.
    prefix = ["nsenter", f"--net={layout.netns}", "--wd=/"] if inside else []
    layout.logs.mkdir(parents=True, exist_ok=True)
    log = str(log_file(layout, name))
    # Not a Popen: that belongs to this process, but the component outlives it.
    pid = os.posix_spawnp(
        (prefix + full)[0],
        prefix + full,
        environment(HOME=str(layout.state)),
        setsid=True,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    record = Record(name=name, pid=pid, started=started_at(pid) or "", argv=full)
    _write(_record_file(layout, name), json.dumps(asdict(record)))
    return record


def records(layout: Layout) -> dict[str, Record]:
    """Return all that was started and not yet stopped, dead or alive, in order of start."""
    files = sorted((layout.state / "run").glob("*.json"), key=lambda file: file.stat().st_mtime)
    return {file.stem: Record(**json.loads(file.read_text())) for file in files}


def stop(layout: Layout, name: str, *, patience: float = 5) -> None:
    """End one component: politely first, unless there is no patience."""
    record = records(layout).get(name)
    if record is None:
        return
    if record.is_alive():
        _end(record, patience)
    _reap(record.pid)
    _record_file(layout, name).unlink(missing_ok=True)


def log_file(layout: Layout, name: str) -> Path:
    return layout.logs / f"{name}.log"


def log_tail(layout: Layout, name: str, lines: int = 15) -> str:
    """Return the end of a component's log, for an error message."""
    file = log_file(layout, name)
    text = file.read_text(errors="replace").splitlines()[-lines:] if file.exists() else []
    return "\n".join([f"--- last lines of {file}", *text])


def kill(pid: int, sent: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    try:
        os.kill(pid, sent)
    except ProcessLookupError:
        return


def _write(file: Path, text: str) -> None:
    """Write in one step: other threads and processes read the records while components start."""
    file.parent.mkdir(exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(text)
    unfinished.rename(file)


def _end(record: Record, patience: float) -> None:
    if patience:
        kill(record.pid, signal.SIGTERM)
        if _gone(record, patience):
            return
    kill(record.pid, signal.SIGKILL)
    _gone(record, 5)


def _gone(record: Record, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while record.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    return not record.is_alive()


def _reap(pid: int) -> None:
    """Let go of a zombie, if it was a child of this very process."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _record_file(layout: Layout, name: str) -> Path:
    return layout.state / "run" / f"{name}.json"
