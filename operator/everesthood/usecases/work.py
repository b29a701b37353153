"""Take in what a worker has done and give it what is due, in one call."""

from collections.abc import Iterator
from typing import Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import (
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    LogLine,
    OutputsReply,
    OutputsRequest,
    StepRecord,
    WorkReply,
    WorkRequest,
)
from everesthood.domain import run_ids
from everesthood.domain.errors import Conflict, Invalid
from everesthood.domain.steps import MAX_OUTPUT_BYTES, MAX_QUESTION
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.record import WorkerSeat, WorkStore

_MOST_RUNS: Final = 1000
_MESSAGE_LENGTH: Final = 8192
_MOST_TRIES: Final = 10_000
_LAST_SECOND: Final = 253_402_300_799
_LONGEST_DEADLINE: Final = 2_592_000
_INT: Final = 2**31


async def work(*, store: WorkStore, bell: Bell, seat: WorkerSeat, request: WorkRequest) -> WorkReply:
    """Return runs to start and runs to give up.

    The bell is settled first: whatever is accepted later rings again, whatever came before is claimed now.

    Raises:
        Invalid: the request breaks a rule; nothing of it was written.
        Unavailable: the record cannot be reached; the same call may be sent again.
    """
    _check(request)
    if request.settle_bell:
        await bell.settle(seat.instance_uid, seat.revision)
    return await store.work(seat, _shortened(request))


async def heartbeat(*, store: WorkStore, seat: WorkerSeat, request: HeartbeatRequest) -> HeartbeatReply:
    """Renew the leases of held runs; return those to stop."""
    if len(request.held) > _MOST_RUNS:
        raise Invalid(f"held: at most {_MOST_RUNS} runs in one call.")
    for index, held in enumerate(request.held):
        _check_hold(f"held[{index}]", held.run, held.fence)
    return await store.heartbeat(seat, request)


async def outputs(*, store: WorkStore, seat: WorkerSeat, request: OutputsRequest) -> OutputsReply:
    """Return outputs of a held run's earlier attempts.

    Raises:
        Conflict: the worker does not hold the run, or the run has no such step.
    """
    _check_hold("outputs", request.run, request.fence)
    if not 0 < len(request.steps) <= _MOST_RUNS:
        raise Invalid(f"steps: from 1 to {_MOST_RUNS} names in one call.")
    found = await store.outputs(seat, request)
    if not found.outputs:
        raise Conflict("The run is not held by this worker, or has none of these steps.", Reason.LEASE_LOST)
    return found


def _check(request: WorkRequest) -> None:
    if not 0 <= request.want <= _MOST_RUNS:
        raise Invalid(f"want: must be from 0 to {_MOST_RUNS}.")
    for path, written in _written(request):
        _check_hold(path, written.run, written.fence)
        for step in written.steps:
            _check_step(f"{path}.steps.{step.name}", step)
        if isinstance(written, Finish) and len(bytes(written.output)) > MAX_OUTPUT_BYTES:
            raise Invalid(f"{path}.output: larger than {MAX_OUTPUT_BYTES} bytes.")
        if isinstance(written, Finish) and written.retry_after_seconds is not None:
            _check_wait(f"{path}.retry_after_seconds", written.retry_after_seconds)
        if isinstance(written, Finish):
            _check_asks(path, written)
    for index, line in enumerate(request.logs):
        _check_hold(f"logs[{index}]", line.run, line.fence)
        _check_time(f"logs[{index}].at", line.at)


def _written(request: WorkRequest) -> Iterator[tuple[str, Checkpoint | Finish]]:
    for index, checkpoint in enumerate(request.checkpoints):
        yield f"checkpoints[{index}]", checkpoint
    for index, finish in enumerate(request.finished):
        yield f"finished[{index}]", finish


def _check_hold(path: str, run: str, fence: int) -> None:
    if run_ids.parse(run) is None:
        raise Invalid(f"{path}.run: not the id of a run.")
    if not 0 < fence < _INT:
        raise Invalid(f"{path}.fence: must be a positive 32-bit number.")


def _check_step(path: str, step: StepRecord) -> None:
    if len(bytes(step.output)) > MAX_OUTPUT_BYTES:
        raise Invalid(f"{path}.output: larger than {MAX_OUTPUT_BYTES} bytes.")
    if not 0 <= step.tries <= _MOST_TRIES:
        raise Invalid(f"{path}.tries: must be from 0 to {_MOST_TRIES}.")
    _check_time(f"{path}.started_at", step.started_at)
    _check_time(f"{path}.finished_at", step.finished_at)


def _check_asks(path: str, finish: Finish) -> None:
    if (finish.outcome == "waiting") != bool(finish.asks):
        raise Invalid(f"{path}.asks: a run waits with at least one question, and asks none otherwise.")
    for ask in finish.asks:
        if len(ask.message) > MAX_QUESTION:
            raise Invalid(f"{path}.asks.{ask.step}.message: longer than {MAX_QUESTION} characters.")
        if not 1 <= ask.deadline_seconds <= _LONGEST_DEADLINE:
            raise Invalid(f"{path}.asks.{ask.step}.deadline_seconds: from 1 to {_LONGEST_DEADLINE}.")


def _check_wait(path: str, seconds: float) -> None:
    if not 0 <= seconds <= _LAST_SECOND:
        raise Invalid(f"{path}: must be a number of seconds, not below 0.")


def _check_time(path: str, seconds: float) -> None:
    if not 0 <= seconds <= _LAST_SECOND:
        raise Invalid(f"{path}: not a time in seconds since 1970.")


def _shortened(request: WorkRequest) -> WorkRequest:
    """Return the request with sentences of a length that people read and lists can show."""
    if all(len(line.message) <= _MESSAGE_LENGTH for line in request.logs) and all(
        len(end.message) <= _MESSAGE_LENGTH for end in request.finished
    ):
        return request
    return msgspec.structs.replace(
        request,
        logs=tuple(_short(line) for line in request.logs),
        finished=tuple(_short(end) for end in request.finished),
    )


def _short(said: Finish | LogLine) -> Finish | LogLine:
    if len(said.message) <= _MESSAGE_LENGTH:
        return said
    return msgspec.structs.replace(said, message=said.message[: _MESSAGE_LENGTH - 1] + "…")
