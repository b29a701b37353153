"""Have a run of another instance for an agent's tool call, and say where it is.

The checkpoint of the call is the run's idempotency key: however often a parent asks, on however many
workers, there is one child. Nothing of the waiting is kept anywhere else.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import EMPTY, ChildReply, ChildRequest
from everesthood.domain import run_ids
from everesthood.domain.errors import Conflict, Forbidden, Invalid, NotFound
from everesthood.domain.runs import FINAL, Run, RunId, RunState, lets_go
from everesthood.domain.steps import AgentSpec, called_instances
from everesthood.usecases.ports.record import GatewayStore, RunStore, WorkerSeat
from everesthood.usecases.read_program import published
from everesthood.usecases.request_run import Answer, Wish

MOST_DEPTH: Final = 5
"""Runs above one another: agents that call each other in a circle come to an end."""
WAIT_SECONDS: Final = 7.0
"""How long one question waits for the end of the child; less than a worker waits for an answer."""
_LOOK_SECONDS: Final = 2.0
"""A wake-up may be lost; this is the longest that an end then stays unseen."""
_LONGEST_STEP: Final = 200
_LONGEST_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInstance:
    """The use case with what it needs."""

    store: GatewayStore
    runs: RunStore
    request_run: Callable[[Wish], Awaitable[Answer]]
    wait_seconds: float = WAIT_SECONDS
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Answer everybody who waits, now and later: the process is about to end."""
        self.ending.set()

    async def __call__(self, seat: WorkerSeat, request: ChildRequest) -> ChildReply:
        """Start the run unless it is there, wait a little for its end, and return where it is.

        Raises:
            Forbidden: the revision declares no tool that runs this instance.
            Conflict: the worker does not hold the calling run, or the runs are too deep.
            NotFound: there is no such instance.
            Invalid: it takes no such input.
            Unavailable: the record cannot be reached; ask again.
        """
        _check(request)
        await self._check_declared(seat, request.instance)
        parent = await self._parent(seat, request)
        answer = await self.request_run(_wish(seat, parent, request))
        await self._check_wanted(parent, answer.run.id)
        return await self._reply(seat.namespace, answer.run.id)

    async def _check_declared(self, seat: WorkerSeat, instance: str) -> None:
        _, revision = await published(self.store, seat)
        if instance not in called_instances(msgspec.json.decode(revision.spec, type=AgentSpec)):
            said = f"Revision {seat.revision} of the template has no tool that runs instance {instance!r}."
            raise Forbidden(said, Reason.NOT_YOURS)

    async def _parent(self, seat: WorkerSeat, request: ChildRequest) -> Run:
        found = await self.runs.get(seat.namespace, RunId(request.run))
        if (
            found is None
            or found.instance_uid != seat.instance_uid
            or found.fence != request.fence
            or found.state is not RunState.RUNNING
            or found.cancel_requested
        ):
            raise Conflict("The run is not held by this worker, or is cancelled.", Reason.LEASE_LOST)
        return found

    async def _check_wanted(self, parent: Run, child: RunId) -> None:
        """Cancel a child whose parent was cancelled beside its accept, which may not have seen it."""
        now = await self._get(parent.namespace, parent.id)
        if lets_go(now.state, cancel_requested=now.cancel_requested):
            await self.runs.cancel(parent.namespace, child, f"run/{parent.id}", parent.request_id)
            raise Conflict(f"Run {parent.id} is cancelled.", Reason.LEASE_LOST)

    async def _reply(self, namespace: str, run: RunId) -> ChildReply:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.wait_seconds):
                if (found := await self._ended(namespace, run)) is not None:
                    return _over(found)
        return ChildReply(run=run, state=(await self._get(namespace, run)).state, is_over=False)

    async def _ended(self, namespace: str, run: RunId) -> Run | None:
        """Return the run once it is over, None when this process ends before it."""
        async with contextlib.aclosing(_looks(self.runs, run, self.ending)) as looks:
            async for _ in looks:
                found = await self._get(namespace, run)
                if found.state in FINAL:
                    return found
        return None

    async def _get(self, namespace: str, run: RunId) -> Run:
        found = await self.runs.get(namespace, run)
        if found is None:
            raise NotFound(f"Run {run} is no longer kept.", Reason.RUN_NOT_FOUND)
        return found


async def _looks(runs: RunStore, run: RunId, ending: asyncio.Event) -> AsyncGenerator[None, None]:
    """Yield at once and whenever the run may have changed, until the process ends."""
    watch = runs.watch(run)
    coming = asyncio.ensure_future(anext(aiter(watch)))
    over = asyncio.ensure_future(ending.wait())
    try:
        await asyncio.sleep(0)  # it listens now, so that no change falls between
        yield
        while not over.done():
            await asyncio.wait([coming, over], timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if coming.done():
                coming.result()
                coming = asyncio.ensure_future(anext(aiter(watch)))
            yield
    finally:
        coming.cancel()
        over.cancel()
        await asyncio.wait([coming, over])


def _check(request: ChildRequest) -> None:
    if run_ids.parse(request.run) is None or request.fence < 1:
        raise Invalid("run, fence: not a run that a worker could hold.")
    if not 0 < len(request.step) <= _LONGEST_STEP or not request.step.isascii():
        raise Invalid(f"step: must be 1 to {_LONGEST_STEP} ASCII characters.")
    if not 0 < request.seconds <= _LONGEST_SECONDS:
        raise Invalid(f"seconds: must be from 1 to {_LONGEST_SECONDS}.")


def _wish(seat: WorkerSeat, parent: Run, request: ChildRequest) -> Wish:
    depth = _depth(parent) + 1
    if depth > MOST_DEPTH:
        said = f"Runs that call runs are {MOST_DEPTH} deep already: run {parent.id} may start none."
        raise Conflict(said, Reason.BAD_REQUEST)
    return Wish(
        namespace=seat.namespace,
        instance=request.instance,
        input=bytes(request.input),
        requested_by=f"run/{parent.id}",
        request_id=parent.request_id,
        idempotency_key=f"run/{parent.id}/{request.step}",
        labels={names.RUN_LABEL_PARENT: parent.id, names.RUN_LABEL_DEPTH: str(depth)},
        seconds_left=request.seconds,
    )


def _depth(run: Run) -> int:
    said = run.labels.get(names.RUN_LABEL_DEPTH, "0")
    return int(said) if said.isdecimal() else 0


def _over(run: Run) -> ChildReply:
    output = EMPTY if run.output is None else msgspec.Raw(run.output)
    return ChildReply(run=run.id, state=run.state, is_over=True, output=output, message=run.message)
