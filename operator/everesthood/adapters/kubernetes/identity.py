"""Who calls, and what they may do: TokenReview and SubjectAccessReview of the API server.

Used by web (people and programs) and by the gateway (workers). Nothing is remembered here; whoever
calls often keeps the answers for as long as its own rules allow.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol

from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Unauthenticated, Unavailable
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.identity import Access, Identity

_TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
_ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_LONGEST_TOKEN: Final = 16_384


class Asks(Protocol):
    """The part of the Kubernetes client that questions need."""

    async def request(self, method: str, path: str, *, body: object = None) -> dict[str, Any]:
        """Return the answer as a JSON object; raise ApiError or Unavailable."""
        ...


async def ask(client: Asks, method: str, path: str, body: object = None) -> dict[str, Any]:
    """Return the answer; an API server that is down becomes our reason for it."""
    try:
        return await client.request(method, path, body=body)
    except Unavailable as error:
        raise Unavailable(
            error.message, Reason.KUBERNETES_UNAVAILABLE, retry_after_seconds=error.retry_after_seconds
        ) from error


class KubernetesIdentities:
    """Implements `usecases.ports.identity.Identities`."""

    def __init__(self, client: Asks) -> None:
        """Ask through `client`, whose account may create both reviews."""
        self._client = client

    async def authenticate(self, token: str, audiences: tuple[str, ...]) -> Identity:
        """Return who holds the token; no audiences means the API server's own."""
        if not token or len(token) > _LONGEST_TOKEN:
            raise Unauthenticated("The request carries no usable bearer token.")
        spec: dict[str, object] = {"token": token}
        if audiences:
            spec["audiences"] = list(audiences)
        answer = await self._review("TokenReview", _TOKEN_REVIEWS, spec)
        status = answer.get("status") or {}
        # A server that ignores audiences answers without naming one: that proves nothing.
        fits = not audiences or set(audiences) & set(status.get("audiences") or ())
        if not (status.get("authenticated") is True and fits):
            raise Unauthenticated("The token is expired, revoked, or made for another audience.")
        return _identity(status.get("user") or {})

    async def allows(self, identity: Identity, access: Access) -> bool:
        """Return whether RBAC lets the caller do it; an explicit denial wins."""
        spec = {
            "user": identity.username,
            "groups": list(identity.groups),
            "uid": identity.uid,
            "extra": {key: list(values) for key, values in identity.extra.items()},
            "resourceAttributes": {
                "group": names.GROUP,
                "version": names.VERSION,
                "namespace": access.namespace,
                "verb": access.verb,
                "resource": access.resource,
                "subresource": access.subresource,
                "name": access.name,
            },
        }
        answer = await self._review("SubjectAccessReview", _ACCESS_REVIEWS, spec)
        status = answer.get("status") or {}
        return status.get("allowed") is True and status.get("denied") is not True

    async def _review(self, kind: str, path: str, spec: Mapping[str, object]) -> dict[str, Any]:
        group = path.split("/")[2]
        body = {"apiVersion": f"{group}/v1", "kind": kind, "spec": spec}
        try:
            return await ask(self._client, "POST", path, body)
        except ApiError as error:
            # Our own account may not ask, or the server does not know the question: not the caller's fault.
            raise Unavailable(
                f"Kubernetes does not answer a {kind}: {error.message}", Reason.KUBERNETES_UNAVAILABLE
            ) from error


def _identity(user: Mapping[str, Any]) -> Identity:
    username = user.get("username")
    if not username or username == "system:anonymous":
        raise Unauthenticated("The token names nobody.")
    return Identity(
        username=username,
        groups=tuple(user.get("groups") or ()),
        uid=user.get("uid") or "",
        extra={key: tuple(values) for key, values in (user.get("extra") or {}).items()},
    )
