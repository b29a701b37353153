"""Show one run with its steps, or a page of its log."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from everesthood.domain.errors import NotFound
from everesthood.domain.run_ids import parse
from everesthood.domain.runs import Run, RunState
from everesthood.usecases.ports.record import RunStore, StoredLine, StoredStep


async def find_run(runs: RunStore, namespace: str, run: str, instance: str = "") -> Run:
    """Return the run of that namespace and, where one is named, of that instance."""
    run_id = parse(run)
    found = await runs.get(namespace, run_id) if run_id else None
    # One sentence for all of them, so that nobody learns of a run elsewhere.
    if found is None or (instance and found.instance != instance):
        of_instance = f" of {instance!r}" if instance else ""
        raise NotFound(f"There is no run {run!r}{of_instance} in namespace {namespace!r}.")
    return found


async def get_run(
    runs: RunStore, namespace: str, run: str, instance: str = ""
) -> tuple[Run, Sequence[StoredStep]]:
    """Return the run and its steps; of a due run, `waits_for` says what keeps it back."""
    found = await find_run(runs, namespace, run, instance)
    return await _explained(runs, found), await runs.steps(found.id)


async def _explained(runs: RunStore, run: Run) -> Run:
    if run.state is not RunState.QUEUED or run.due_at is None or run.due_at > datetime.now(UTC):
        return run
    denial = await runs.kept_back(run)
    return run if denial is None else replace(run, waits_for=denial.sentence)


async def get_log(runs: RunStore, run: Run, *, after: int, limit: int) -> Sequence[StoredLine]:
    """Return a page of the log of a run that was found."""
    return await runs.log(run.id, after=after, limit=limit)
