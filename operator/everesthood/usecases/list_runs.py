"""List the runs of one namespace, newest first, page by page."""

from collections.abc import Sequence

from everesthood.domain.errors import Invalid, Problem
from everesthood.domain.run_ids import parse
from everesthood.domain.runs import Run
from everesthood.usecases.ports.record import RunFilter, RunStore


async def list_runs(runs: RunStore, wanted: RunFilter) -> tuple[Sequence[Run], str | None]:
    """Return a page and the cursor of the next one."""
    if wanted.before is not None and parse(wanted.before) is None:
        problem = Problem("/cursor", "is not a cursor of this list")
        raise Invalid("The cursor is not one that this list gave.", problems=(problem,))
    page = await runs.list(wanted)
    return page.runs, page.next
