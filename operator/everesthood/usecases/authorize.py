"""Who calls and whether they may, asked of Kubernetes and remembered for as long as is safe.

An identity is remembered 60 s, a permission 10 s, a refusal 2 s; all of it in bounded memory.
A token is never a key: its digest is.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Final, Generic, Protocol, TypeVar

from everesthood.apis import names
from everesthood.domain.access import RESOURCE, Requirement
from everesthood.domain.errors import Forbidden, Unauthenticated
from everesthood.usecases.ports.identity import Access, Identities, Identity

IDENTITY_SECONDS: Final = 60.0
ALLOWED_SECONDS: Final = 10.0
DENIED_SECONDS: Final = 2.0
_MOST: Final = 10_000

V = TypeVar("V")


class Refused(Protocol):
    """Takes refusals in; it does not hold up who is refused."""

    def __call__(self, *, actor: str, namespace: str, target: str, request_id: str) -> None:
        """Note a refusal."""
        ...


@dataclass(slots=True)
class _Remembered(Generic[V]):
    """Answers until they are too old; equal questions at one time are asked once."""

    clock: Callable[[], float]
    seconds: Callable[[V], float]
    _answers: OrderedDict[Hashable, tuple[float, V]] = field(default_factory=OrderedDict)
    _asking: dict[Hashable, asyncio.Task[V]] = field(default_factory=dict)

    def known(self, key: Hashable) -> V | None:
        """Return an answer that is not too old."""
        found = self._answers.get(key)
        return found[1] if found and found[0] > self.clock() else None

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[V]]) -> V:
        found = self._answers.get(key)
        if found and found[0] > self.clock():
            return found[1]
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.ensure_future(self._ask(key, ask))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        # Shielded: a caller who hangs up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[V]]) -> V:
        answer = await ask()
        self._answers.pop(key, None)
        self._answers[key] = (self.clock() + self.seconds(answer), answer)
        while len(self._answers) > _MOST:
            self._answers.popitem(last=False)
        return answer


class Authorizer:
    """Answers for one process."""

    def __init__(
        self, identities: Identities, clock: Callable[[], float], refused: Refused | None = None
    ) -> None:
        """Ask `identities`; `clock` counts seconds and never goes back; `refused` is told of each refusal."""
        self._identities = identities
        self._refused = refused
        self._known = _Remembered[Identity | Unauthenticated](
            clock, lambda answer: DENIED_SECONDS if isinstance(answer, Exception) else IDENTITY_SECONDS
        )
        self._allowed = _Remembered[bool](clock, lambda yes: ALLOWED_SECONDS if yes else DENIED_SECONDS)

    async def authenticate(self, token: str) -> Identity:
        """Return who holds a token made for this API, or for the API server itself."""
        digest = hashlib.sha256(token.encode()).digest()
        answer = await self._known.get(digest, lambda: self._identify(token))
        if isinstance(answer, Unauthenticated):
            raise Unauthenticated(answer.message)
        return answer

    async def require(
        self,
        identity: Identity,
        need: Requirement,
        namespace: str,
        name: str = "",
        *,
        request_id: str = "",
    ) -> None:
        """Return when RBAC allows it; an empty name asks for all instances of the namespace."""
        access = Access(
            verb=need.verb,
            namespace=namespace,
            resource=RESOURCE,
            subresource=need.subresource,
            name=name,
        )
        if not await self._may(identity, access):
            if self._refused is not None:
                self._refused(
                    actor=identity.username,
                    namespace=namespace,
                    target=_target(access),
                    request_id=request_id,
                )
            raise Forbidden(_refusal(identity, access))

    async def _may(self, identity: Identity, access: Access) -> bool:
        """Return whether it is allowed, for all names or for this one.

        Whoever may do it to all, which an empty name means to Kubernetes, is not asked about each: a program
        that starts runs of a thousand instances costs one review and not a thousand. RBAC knows no exceptions
        from that; those of another authorizer by name do not count here.
        """
        if self._allowed.known((_key(identity), access)):
            return True
        everything = replace(access, name="")
        return await self._reviewed(identity, everything) or (
            bool(access.name) and await self._reviewed(identity, access)
        )

    async def _reviewed(self, identity: Identity, access: Access) -> bool:
        return await self._allowed.get(
            (_key(identity), access), lambda: self._identities.allows(identity, access)
        )

    async def _identify(self, token: str) -> Identity | Unauthenticated:
        try:
            return await self._identities.authenticate(token, (names.WEB_AUDIENCE,))
        except Unauthenticated:
            pass
        try:
            return await self._identities.authenticate(token, ())
        except Unauthenticated as error:
            return error


def _key(identity: Identity) -> Hashable:
    return identity.username, identity.uid, identity.groups, tuple(sorted(identity.extra.items()))


def _target(access: Access) -> str:
    """Return what was refused, as the audit log names it."""
    return "/".join(filter(None, (f"{access.verb} {access.resource}", access.name, access.subresource)))


def _refusal(identity: Identity, access: Access) -> str:
    target = f" of {access.name}" if access.name else ""
    return (
        f"{identity.username} may not {access.verb} {access.resource}/{access.subresource}{target}"
        f" in namespace {access.namespace}."
    )
