"""The door of every operation: who calls is asked first, then whether they may, then nothing else."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Final

import structlog
from fastapi import Path, Query, Request

from everesthood.domain.access import REQUIRED, Requirement
from everesthood.domain.errors import Forbidden, Unauthenticated
from everesthood.entrypoints.web.parts import Parts
from everesthood.usecases.ports.identity import Identity

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

# No bound on any of these: a broken name must come to the door like any other, and be refused there.
Namespace = Annotated[str, Path(description="The organisation's namespace.")]
InstancePath = Annotated[str, Path(description="Name of the AgentInstance.")]
InstanceQuery = Annotated[
    str, Query(description="Name of the AgentInstance. Needed where your role names single instances.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of somebody who may do what they ask for."""

    parts: Parts
    identity: Identity
    namespace: str
    instance: str
    """The only instance that the permission is for; empty for all of the namespace."""
    request_id: str
    check: Callable[[], Awaitable[Identity]]
    """Ask again: for whoever stays longer than a permission is remembered."""

    async def require(self, operation: str) -> None:
        """Ask for what another operation needs as well, where a call does both."""
        need = REQUIRED[operation]
        await self.parts.authorizer.require(
            self.identity, need, self.namespace, self.instance, request_id=self.request_id
        )


Door = Callable[..., Awaitable[Call]]

OPERATION_OF: Final[dict[object, str]] = {}
"""Which operation each door was made for, so that a route behind another's door is found."""


def guard(operation: str) -> Door:
    """Return the dependency that lets only those in who may do the operation."""
    need = REQUIRED[operation]

    async def enter(request: Request, namespace: Namespace, instance: InstanceQuery = "") -> Call:
        return await enter_as(request, need, namespace, instance)

    OPERATION_OF[enter] = operation
    return enter


def guard_of_instance(operation: str) -> Door:
    """Return the same for operations whose path names the instance."""
    need = REQUIRED[operation]

    async def enter(request: Request, namespace: Namespace, name: InstancePath) -> Call:
        return await enter_as(request, need, namespace, name)

    OPERATION_OF[enter] = operation
    return enter


def guard_of_namespace(operation: str) -> Door:
    """Return the same for operations on all of a namespace, which no role for a single instance opens."""
    need = REQUIRED[operation]

    async def enter(request: Request, namespace: Namespace) -> Call:
        return await enter_as(request, need, namespace, "")

    OPERATION_OF[enter] = operation
    return enter


async def enter_as(request: Request, need: Requirement, namespace: str, instance: str) -> Call:
    """Return the call if who calls may do what is needed."""
    parts: Parts = request.app.state.parts
    token = _token(request)

    async def check() -> Identity:
        identity = await parts.authorizer.authenticate(token)
        if not (_NAME.fullmatch(namespace) and _NAME.fullmatch(instance or "all")):
            raise Forbidden("That is not a name of a namespace or an AgentInstance.")
        await parts.authorizer.require(
            identity, need, namespace, instance, request_id=request.state.request_id
        )
        return identity

    identity = await check()
    structlog.contextvars.bind_contextvars(user=identity.username, namespace=namespace)
    return Call(
        parts=parts,
        identity=identity,
        namespace=namespace,
        instance=instance,
        request_id=request.state.request_id,
        check=check,
    )


def _token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated("Send a Kubernetes token: `Authorization: Bearer TOKEN`.")
    return token.strip()
