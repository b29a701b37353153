"""The run engine beside its peers: `python -m tests.bench.engine [PART…]`.

`throughput` installs the peers at its first run. `--page` puts what was printed into docs/explanation/speed.md. Schedules are
`tests.bench.schedules`; a missed target makes the command fail after everything was printed.
"""

import argparse
import contextlib
import io
import os
import platform
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.bench import latency
from tests.bench.engine import costs, history, resume, slots, throughput
from tests.bench.engine.installs import Missing

PAGE: Final = Path(__file__).parents[3] / "docs" / "explanation" / "speed.md"
PARTS: Final[Mapping[str, Callable[..., int]]] = {
    "throughput": throughput.measure,
    "slots": slots.measure,
    "idle": latency.measure,
    "resume": resume.measure,
    "history": history.measure,
    "costs": costs.measure,
}


def main() -> int:
    """Print all tables; return the number of missed targets."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    parser.add_argument("--page", action="store_true", help="write the results into the docs")
    given = parser.parse_args()
    unknown = sorted(set(given.parts) - set(PARTS))
    if unknown:
        parser.error(f"no part named {', '.join(unknown)}; there are {', '.join(PARTS)}")
    options = {} if given.rounds is None else {"rounds": given.rounds}
    machine = _machine()
    print(machine)
    missed = 0
    for part in given.parts or PARTS:
        print(f"-- {part}", flush=True)
        with contextlib.redirect_stdout(_Copy()) as copy:
            missed += PARTS[part](**options)
        if given.page:
            PAGE.write_text(filled(PAGE.read_text(), part, f"{machine}\n{copy.kept()}"))
    print(f"{missed or 'no'} target{'' if missed == 1 else 's'} missed")
    return missed


class _Copy(io.StringIO):
    """Prints, and keeps all but the lines that only say how far it is."""

    def write(self, text: str) -> int:
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]
        return super().write(text)

    def kept(self) -> str:
        return "".join(line for line in self.getvalue().splitlines(True) if not line.startswith("  round "))


def filled(page: str, part: str, printed: str) -> str:
    """Return the page with a part's block filled."""
    begin, end = f"<!-- {part} -->\n", f"<!-- end of {part} -->"
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no block for {part}.")
    return f"{before}{begin}```text\n{printed}```\n{end}{after}"


def _machine() -> str:
    """Return what a reader must know of the machine."""
    cpu = next(
        (
            line.partition(": ")[2]
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores of {cpu}, {gibibytes:.0f} GiB, {platform.system()} {platform.release()}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Missing as error:
        sys.exit(str(error))
