"""Send nothing with a credential while its provider asks to wait, and tell the gateway when one does."""

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from everesthood.apis.wire import HoldRequest
from everesthood.domain.attempts import held_seconds
from everesthood.domain.errors import EveresthoodError, KeyHeld
from everesthood.usecases.ports.worker import Answer, Call, Gateway, Outbound

_WORTH_TELLING_SECONDS: Final = 0.5
"""A crowd of runs is refused at once: only who learns of a longer hold tells of it."""

log = logging.getLogger(__name__)


class HeedingOutbound:
    """The port `Outbound` over another one, for all runs of a worker."""

    def __init__(
        self, outbound: Outbound, gateway: Gateway, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Know of no hold yet."""
        self._outbound = outbound
        self._gateway = gateway
        self._now = now
        self._held_until: dict[str, float] = {}

    async def send(self, call: Call) -> Answer:
        """Make the call unless its credential is held; whoever made it judges the answer.

        Raises:
            KeyHeld: the credential is held, nothing was sent.
        """
        slot = call.credential
        if slot is None:
            return await self._outbound.send(call)
        left = self._held_until.get(slot, 0.0) - self._now()
        if left > 0:
            raise KeyHeld(
                f"the provider of slot {slot} asked to wait {left:.0f} s more", retry_after_seconds=left
            )
        answer = await self._outbound.send(call)
        seconds = held_seconds(answer.status, answer.headers.get("retry-after"), datetime.now(UTC))
        if seconds is not None:
            await self._hold(slot, seconds)
        return answer

    async def _hold(self, slot: str, seconds: float) -> None:
        until, known = self._now() + seconds, self._held_until.get(slot, 0.0)
        self._held_until[slot] = max(until, known)
        if until - known < _WORTH_TELLING_SECONDS:
            return
        try:
            await self._gateway.hold(HoldRequest(slot=slot, seconds=seconds))
        except EveresthoodError as error:  # others will be told by the provider themselves
            log.warning("the gateway was not told that slot %s is held: %s", slot, error.message)
