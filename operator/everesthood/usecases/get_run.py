"""Show one run, a page of its steps or of its log, or what one step came to."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from everesthood.domain.errors import NotFound
from everesthood.domain.run_ids import parse
from everesthood.domain.runs import Run, RunState
from everesthood.usecases.ports.record import RunStore, StoredLine, StoredStep

FIRST_STEPS: Final = 100
"""Steps that come with a run."""


async def find_run(runs: RunStore, namespace: str, run: str, instance: str = "") -> Run:
    """Return the run of that namespace and, where one is named, of that instance."""
    run_id = parse(run)
    found = await runs.get(namespace, run_id) if run_id else None
    # One sentence for all of them, so that nobody learns of a run elsewhere.
    if found is None or (instance and found.instance != instance):
        of_instance = f" of {instance!r}" if instance else ""
        raise NotFound(f"There is no run {run!r}{of_instance} in namespace {namespace!r}.")
    return found


async def get_run(runs: RunStore, namespace: str, run: str, instance: str = "") -> Run:
    """Return the run; of a due one, `waits_for` says what keeps it back."""
    return await _explained(runs, await find_run(runs, namespace, run, instance))


async def _explained(runs: RunStore, run: Run) -> Run:
    if run.state is not RunState.QUEUED or run.due_at is None or run.due_at > datetime.now(UTC):
        return run
    denial = await runs.kept_back(run)
    return run if denial is None else replace(run, waits_for=denial.sentence)


async def get_steps(
    runs: RunStore, run: Run, *, after: int = 0, limit: int = FIRST_STEPS
) -> tuple[Sequence[StoredStep], int | None]:
    """Return a page of the steps of a run that was found, and where the next one begins."""
    steps = await runs.steps(run.id, after=after, limit=limit)
    return steps, steps[-1].seq if len(steps) == limit else None


async def get_output(runs: RunStore, run: Run, step: str) -> bytes:
    """Return what one step of a run that was found came to, as JSON."""
    found = await runs.output(run.id, step)
    if found is None:
        raise NotFound(f"Run {run.id} has no step {step!r} yet.")
    return found


async def get_log(runs: RunStore, run: Run, *, after: int, limit: int) -> Sequence[StoredLine]:
    """Return a page of the log of a run that was found."""
    return await runs.log(run.id, after=after, limit=limit)
