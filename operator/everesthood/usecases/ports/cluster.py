"""The cluster: what the controller sees of it without a call, and what it writes to it."""

from collections.abc import Sequence
from typing import Final, Protocol

from everesthood.apis.reasons import Reason
from everesthood.domain.children import Child
from everesthood.domain.conditions import Notice
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.observed import Key, Live

_REASONS: Final = {
    403: Reason.FORBIDDEN,
    404: Reason.BAD_REQUEST,
    409: Reason.CONFLICT,
    422: Reason.BAD_REQUEST,
}

_NOT_FOUND: Final = 404


class ApiError(EveresthoodError):
    """The API server answered and refused; the same call will be refused again.

    `message` is the API server's own sentence, `causes` its findings by field.
    """

    def __init__(
        self, message: str, *, status: int, kube_reason: str = "", causes: tuple[str, ...] = ()
    ) -> None:
        """Keep the answer."""
        super().__init__(message, _REASONS.get(status, Reason.INTERNAL))
        self.status = status
        self.kube_reason = kube_reason
        self.causes = causes

    @property
    def is_gone(self) -> bool:
        """Return whether the object, or the namespace around it, is no longer there."""
        return self.status == _NOT_FOUND or any("NamespaceTerminating" in cause for cause in self.causes)


class View(Protocol):
    """What the watches have brought; no call, never waits."""

    def get(self, key: Key) -> Live | None:
        """Return an object."""
        ...

    def owned_by(self, uid: str) -> Sequence[Live]:
        """Return the objects that are controlled by the one with that uid."""
        ...

    def knows(self, uid: str) -> bool:
        """Return whether an object of ours with that uid exists."""
        ...

    def referrers(self, key: Key) -> Sequence[Key]:
        """Return the objects that name this one."""
        ...


class Cluster(Protocol):
    """Writes. Every answer is in the view before the call returns.

    All raise ApiError when refused and Unavailable when the API server cannot be reached.
    """

    async def look(self, key: Key) -> Live | None:
        """Return the object as it is now; the view may not show objects of others."""
        ...

    async def apply(self, child: Child, live: Live | None) -> Live:
        """Server-side apply; with `live`, only onto that very object, without it only where nobody's is."""
        ...

    async def apply_status(self, live: Live, status: dict[str, object]) -> None:
        """Write the status of one of our kinds."""
        ...

    async def delete(self, live: Live) -> None:
        """Delete that very object; gone already is well."""
        ...

    async def hold(self, live: Live) -> None:
        """Put our finalizer on the object."""
        ...

    async def release(self, live: Live) -> None:
        """Take our finalizer off the object; gone already is well."""
        ...

    async def tell(self, about: Live, notice: Notice) -> None:
        """Write an Event; never raises, for nothing depends on it."""
        ...
