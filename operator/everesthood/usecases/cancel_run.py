"""Cancel a run: at once when it waits, through its worker when it runs."""

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Conflict, NotFound
from everesthood.domain.runs import FINAL, GRACE_SECONDS, Run, RunState
from everesthood.usecases.ports.record import RunStore


async def cancel_run(
    runs: RunStore, found: Run, *, actor: str, request_id: str, grace_seconds: float = GRACE_SECONDS
) -> Run:
    """Return the run as it is now; cancelling twice is well."""
    _refuse_finished(found)
    if found.state is RunState.CANCELLED:
        return found
    now = await runs.cancel(found.namespace, found.id, actor, request_id, grace_seconds)
    if now is None:
        raise NotFound(f"There is no run {found.id!r} in namespace {found.namespace!r}.")
    _refuse_finished(now)
    return now


def _refuse_finished(run: Run) -> None:
    if run.state in FINAL and run.state is not RunState.CANCELLED:
        raise Conflict(f"Run {run.id} is over: it {_PAST[run.state]}.", Reason.RUN_FINISHED)


_PAST = {
    RunState.SUCCEEDED: "succeeded",
    RunState.DEAD: "failed",
    RunState.EXPIRED: "ran out of time",
    RunState.AMBIGUOUS: "stopped with an unknown outcome",
}
