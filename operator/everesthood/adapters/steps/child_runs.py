"""Runs of other agents as tools: asked for by the name of the call, waited for until they are over."""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import ChildReply, ChildRequest
from everesthood.domain.errors import Refused, StepFailed, Unauthenticated, Unavailable
from everesthood.usecases.ports.worker import Children, Scope, Sleep

_PAUSE_SECONDS: Final = 1.0


class ChildRuns:
    """Has runs of other instances. Whoever goes on with the run asks for the same child, and waits on."""

    def __init__(self, children: Children | None, *, sleep: Sleep = asyncio.sleep) -> None:
        """Ask there; None where there are no other instances."""
        self._children = children
        self._sleep = sleep

    async def output(self, scope: Scope, instance: str, args: Mapping[str, object]) -> object:
        """Return what the run came to: {run, output}.

        Raises StepFailed when it came to nothing, which the model is told.
        """
        reply = await self._over(scope, instance, msgspec.Raw(msgspec.json.encode(args)))
        if reply.state != "succeeded":
            said = f"run {reply.run} of {instance} is {reply.state}"
            raise StepFailed(f"{said}: {reply.message}" if reply.message else said)
        return {"run": reply.run, "output": reply.output}

    async def _over(self, scope: Scope, instance: str, given: msgspec.Raw) -> ChildReply:
        if self._children is None:
            raise StepFailed("there are no other instances here")
        while True:
            request = ChildRequest(
                run=scope.run,
                fence=scope.fence,
                step=scope.step.name,
                instance=instance,
                input=given,
                seconds=_seconds_left(scope),
            )
            try:
                reply = await self._children.child(request)
            except (Unavailable, Unauthenticated):
                await self._sleep(_PAUSE_SECONDS)
                continue
            except Refused as error:
                if error.reason is not Reason.LEASE_LOST:
                    raise StepFailed(error.message) from None
                # The run was cancelled, or is another worker's: no model is to hear that and go on. Whoever
                # keeps the lease is about to hear it, and ends this step.
                await self._sleep(_PAUSE_SECONDS)
                continue
            if reply.is_over:
                return reply


def _seconds_left(scope: Scope) -> int:
    """Return how long a child may take: no longer than the step, nor than the run."""
    left = min(float(scope.step.timeout_seconds), scope.ends_at - time.monotonic())
    return max(1, int(left))
