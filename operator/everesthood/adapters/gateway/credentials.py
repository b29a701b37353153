"""Leased credentials: asked for when first needed, kept in memory until the lease is over, never shown."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease
from everesthood.domain.errors import EveresthoodError, StepFailed, Unavailable
from everesthood.usecases.ports.worker import Gateway

REDACTED: Final = "[credential]"
_SHORTEST: Final = 6
"""Values shorter than this are not looked for in texts: they would match by chance."""
_REMEMBERED: Final = 64
_PATIENCE_SECONDS: Final = 30.0
"""An outage of ours is waited out: no step should fail of it that could go on after it."""
_PAUSE_SECONDS: Final = 0.25


class LeasedCredentials:
    """The port `Credentials` over the gateway."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        now: Callable[[], float] = time.monotonic,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """Lease nothing yet; a gateway that is away is asked again for as long as the patience lasts."""
        self._gateway = gateway
        self._now = now
        self._patience_seconds = patience_seconds
        self._leases: dict[str, tuple[CredentialLease, float]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._secrets: dict[str, None] = {}

    async def lease(self, slot: str) -> CredentialLease:
        """Return the slot's credential, leased anew when the last lease ran out.

        Raises:
            StepFailed: the gateway gives none; `transient` if it may later.
        """
        async with self._locks.setdefault(slot, asyncio.Lock()):
            known = self._leases.get(slot)
            if known is not None and known[1] > self._now():
                return known[0]
            lease = await self._ask(slot)
            self._leases[slot] = (lease, self._now() + lease.ttl_seconds)
            self._remember(lease)
            return lease

    async def _ask(self, slot: str) -> CredentialLease:
        until = self._now() + self._patience_seconds
        try:
            while True:
                try:
                    return await self._gateway.lease(slot)
                except Unavailable:
                    if self._now() >= until:
                        raise
                await asyncio.sleep(_PAUSE_SECONDS)
        except EveresthoodError as error:
            said = f"credential slot {slot} cannot be leased: {error.message}"
            reason = error.reason if error.reason is not Reason.BAD_REQUEST else Reason.CREDENTIAL_NOT_READY
            raise StepFailed(said, reason, transient=error.transient) from None

    def _remember(self, lease: CredentialLease) -> None:
        for form in _forms(lease.value):
            self._secrets.pop(form, None)
            self._secrets[form] = None
        while len(self._secrets) > _REMEMBERED:
            self._secrets.pop(next(iter(self._secrets)))

    def redact(self, text: str) -> str:
        """Return the text with every leased value replaced."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REDACTED)
        return text


def _forms(value: str) -> Iterator[str]:
    """Yield the ways in which a value is written: as it is, inside JSON, and in Basic authentication."""
    if len(value) < _SHORTEST:
        return
    yield value
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    yield base64.b64encode(value.encode()).decode()
    _, colon, password = value.partition(":")
    if colon and len(password) >= _SHORTEST:
        yield password
