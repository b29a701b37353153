"""`make chaos`: strikes an installation at every point and writes the table of docs/explanation/durability.md."""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.chaos.cases import Case, Verdict, cases
from tests.chaos.matrix import Matrix

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "durability.md"
_BEGIN, _END = "<!-- begin: make chaos -->\n", "<!-- end: make chaos -->\n"
_PLACES = {
    "sql": "statement `{}`",
    "redis": "`{}` to Redis",
    "gateway": "call `{}` to the gateway",
    "queue": "`{}` of a bell by Celery",
    "outside": "`{}` of a step's request to the outside",
}


def main() -> None:
    """Take every case through; end with 1 when a promise is broken."""
    wanted, began = cases(), time.monotonic()
    told = [0]

    def tell(case: Case, verdict: Verdict) -> None:
        told[0] += 1
        state = "; ".join(problems(case, verdict)) or "ok"
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {told[0]:>3}/{len(wanted)}  {case}: {state}\n")
        sys.stdout.flush()

    matrix = Matrix(wanted, tell)
    matrix.start()
    matrix.end_of_all()
    verdicts = {case: matrix.verdicts[str(case)].result() for case in wanted}
    table = "".join(f"{line}\n" for line in lines(verdicts))
    write(PAGE, table)
    sys.stdout.write(table)
    broken = {str(case): found for case, verdict in verdicts.items() if (found := problems(case, verdict))}
    for case, found in broken.items():
        sys.stdout.write(f"{case}: {'; '.join(found)}\n")
    sys.exit(1 if broken else 0)


def problems(case: Case, verdict: Verdict) -> list[str]:
    """Return what is wrong with a case."""
    found = list(verdict.found.breaches)
    if not verdict.happened:
        found.append("the write was not come to")
    if verdict.found.left:
        found.append(f"{verdict.found.left} runs are not over")
    if verdict.found.seconds > case.within + verdict.start_seconds:
        found.append(f"recovered after {verdict.found.seconds:.1f} s")
    return found


def lines(verdicts: Mapping[Case, Verdict]) -> Iterator[str]:
    """Yield the table: what befell whom, the two moments of a write side by side."""
    rows: dict[tuple[str, str], list[Verdict]] = {}
    for case, verdict in verdicts.items():
        rows.setdefault((case.victim, _told(case)), []).append(verdict)
    again = [str(case) for case, verdict in verdicts.items() if verdict.is_second]
    yield f"{len(verdicts)} cases, {sum(v.found.runs for v in verdicts.values())} runs."
    if again:
        yield f"Taken a second time, at first in order but too late, or not come to: {'; '.join(again)}."
    yield ""
    yield "| who | what happens | runs | not over | lost or repeated | recovered after | of it, starting again |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    for (victim, what), found in rows.items():
        yield f"| {victim} | {what} | {_numbers(found)} |"


def _told(case: Case) -> str:
    """Return a case for people: `killed at worker's gateway:work.want` is a write with a place."""
    place, _, name = case.what.partition(":")
    start, _, place = place.rpartition(" ")
    if place not in _PLACES:
        return f"{case.what} {case.when}".strip()
    return f"{start} {_PLACES[place].format(name)}"


def _numbers(found: Sequence[Verdict]) -> str:
    seconds = " / ".join(f"{verdict.found.seconds:.1f}" for verdict in found)
    starts = " / ".join(f"{verdict.start_seconds:.1f}" for verdict in found if verdict.start_seconds)
    counts = (
        sum(verdict.found.runs for verdict in found),
        sum(verdict.found.left for verdict in found),
        sum(len(verdict.found.breaches) for verdict in found),
    )
    return " | ".join([*map(str, counts), f"{seconds} s", f"{starts} s" if starts else ""])


def write(page: Path, table: str) -> None:
    """Put the table between its marks."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}{table}{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    # Ended like this, it leaves by its `finally`s too, and takes all that it started along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
