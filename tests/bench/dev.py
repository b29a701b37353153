"""How soon `everesthood dev` is ready: `python -m tests.bench.dev`. From the start of the command to the line.

Fresh: a folder without rows, as on the first day. Again: the rows of the time before are there.
"""

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support.valkey import free_port

SAMPLES = Path(__file__).parents[2] / "docs" / "tutorials" / "first-agent"
TARGET = 3.0


def started(folder: Path) -> tuple[float, list[str]]:
    """Run the command until it is ready; return the seconds and the lines that it wrote until then."""
    words = ["dev", str(SAMPLES), "--port", str(free_port()), "--state", str(folder)]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "everesthood.entrypoints.cli.main", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            if "ready after" in line:
                return time.monotonic() - began, lines
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    raise SystemExit("it was never ready:\n" + "\n".join(lines))


def main() -> None:
    """Print a table; fail where it warned of anything on the way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    place = Path(tempfile.mkdtemp(prefix="everesthood-bench-", dir="/var/tmp"))
    place.chmod(0o711)
    rows: dict[str, list[float]] = {"fresh": [], "again": []}
    warned: list[str] = []
    try:
        started(place / "warm-up")  # copies programs, fills caches: once on a machine
        for n in range(times):
            for measured in rows.values():
                seconds, lines = started(place / f"state-{n}")
                measured.append(seconds)
                warned += [line for line in lines if re.search(r"warning:|error:|Traceback", line)]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"`everesthood dev`, {os.cpu_count()} cores, {times} times each; target {TARGET:.0f} s")
    print(f"{'folder':<10}{'median s':>10}{'min s':>8}{'max s':>8}")
    for what, seconds in rows.items():
        print(f"{what:<10}{statistics.median(seconds):>10.2f}{min(seconds):>8.2f}{max(seconds):>8.2f}")
    print("warnings on the way: " + ("none" if not warned else "\n" + "\n".join(warned)))
    raise SystemExit(bool(warned))


if __name__ == "__main__":
    main()
