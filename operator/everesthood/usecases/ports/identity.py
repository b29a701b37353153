"""Who calls, and what they may do: Kubernetes answers both."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """An authenticated caller."""

    username: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One question: may the caller do this verb on a subresource of one of our kinds."""

    verb: str
    namespace: str
    resource: str
    subresource: str = ""
    name: str = ""


class Identities(Protocol):
    """Authentication and authorization."""

    async def authenticate(self, token: str, audiences: tuple[str, ...]) -> Identity:
        """Return who holds the token.

        Raises:
            Unauthenticated: the token is not valid for any of the audiences.
            Unavailable: Kubernetes cannot be asked.
        """
        ...

    async def allows(self, identity: Identity, access: Access) -> bool:
        """Return whether RBAC lets the caller do it.

        Raises:
            Unavailable: Kubernetes cannot be asked.
        """
        ...


class PodOwners(Protocol):
    """Follows a pod's owners up to its AgentInstance."""

    async def seat(self, namespace: str, pod: str, pod_uid: str) -> tuple[str, str]:
        """Return (instance uid, revision) at the end of the pod's owner chain.

        Raises:
            Forbidden: there is no such pod, or its owners do not end at an AgentInstance.
            Unavailable: Kubernetes cannot be asked.
        """
        ...


class Secrets(Protocol):
    """Values of Secrets in enrolled namespaces; the gateway's alone."""

    async def value(self, namespace: str, name: str, key: str) -> str:
        """Return one value.

        Raises:
            NotFound: with reason SecretNotFound or SecretKeyNotFound.
            Forbidden: with reason NamespaceNotEnrolled.
            Unavailable: Kubernetes cannot be asked.
        """
        ...
