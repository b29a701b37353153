"""Who is who on one machine: a file that `everesthood dev` writes and its processes read.

Tokens in it are made by chance and good on this machine only. It also holds the values of the Secrets
among the manifests, so only its owner may read it, and it goes when `everesthood dev` ends.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from everesthood.apis.names import GATEWAY_AUDIENCE
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, NotFound, Unauthenticated, Unavailable
from everesthood.usecases.ports.identity import Access, Identity

_POD: Final = "authentication.kubernetes.io/pod-"


class Person(msgspec.Struct, frozen=True):
    """Somebody who may do everything here."""

    token: str
    name: str


class Seat(msgspec.Struct, frozen=True):
    """A worker process, in the place of a pod."""

    token: str
    namespace: str
    account: str
    instance_uid: str
    revision: str


class World(msgspec.Struct, frozen=True):
    """What stands in for Kubernetes."""

    people: tuple[Person, ...] = ()
    seats: tuple[Seat, ...] = ()
    secrets: dict[str, dict[str, str]] = {}
    """`namespace/name` → key → value."""


def write_world(path: Path, world: World) -> None:
    """Replace the file at once; nobody but its owner may read it."""
    fresh = path.with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(world))
    fresh.replace(path)


class LocalWorld:
    """Answers like Kubernetes: the ports `Identities`, `PodOwners` and `Secrets`."""

    def __init__(self, path: Path) -> None:
        """Read the file again whenever it changed."""
        self._path = path
        self._stamp = -1
        self._world = World()

    async def authenticate(self, token: str, audiences: tuple[str, ...]) -> Identity:
        """Return the person or, for the gateway's audience, the worker that holds the token."""
        world = self._now()
        if GATEWAY_AUDIENCE in audiences:
            for seat in world.seats:
                if seat.token == token:
                    return _worker(seat)
        else:
            for person in world.people:
                if person.token == token:
                    return Identity(username=person.name)
        raise Unauthenticated("The token is not one of this machine's `everesthood dev`.")

    async def allows(self, identity: Identity, access: Access) -> bool:  # noqa: ARG002 - of the port
        """Return True for people: there is one organisation, and it is theirs."""
        return any(person.name == identity.username for person in self._now().people)

    async def seat(self, namespace: str, pod: str, pod_uid: str) -> tuple[str, str]:
        """Return the instance and the revision that a worker process is for."""
        for seat in self._now().seats:
            if (seat.namespace, _pod_uid(seat)) == (namespace, pod_uid):
                return seat.instance_uid, seat.revision
        raise Forbidden(f"There is no worker {namespace}/{pod}.", Reason.NOT_YOURS)

    async def value(self, namespace: str, name: str, key: str) -> str:
        """Return one value of a Secret that a manifest defines."""
        where = f"Secret {namespace}/{name}"
        keys = self._now().secrets.get(f"{namespace}/{name}")
        if keys is None:
            raise NotFound(f"{where} is in none of the manifests.", Reason.SECRET_NOT_FOUND)
        if key not in keys:
            raise NotFound(f"{where} has no key {key!r}.", Reason.SECRET_KEY_NOT_FOUND)
        return keys[key]

    def _now(self) -> World:
        try:
            stamp = self._path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._world = msgspec.json.decode(self._path.read_bytes(), type=World)
                self._stamp = stamp
        except (OSError, msgspec.DecodeError) as error:
            raise Unavailable(f"{self._path} cannot be read: {error}") from error
        return self._world


def _worker(seat: Seat) -> Identity:
    return Identity(
        username=f"system:serviceaccount:{seat.namespace}:{seat.account}",
        extra={f"{_POD}name": (f"{seat.account}-{seat.revision[:8]}",), f"{_POD}uid": (_pod_uid(seat),)},
    )


def _pod_uid(seat: Seat) -> str:
    return f"{seat.instance_uid}/{seat.revision}"
