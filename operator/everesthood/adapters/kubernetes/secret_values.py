"""Values of Secrets, for the gateway alone, in namespaces whose RoleBinding lets it.

Read at each use and kept nowhere; no message or exception here ever carries a value.
"""

import base64
import binascii
from typing import Final

from everesthood.adapters.kubernetes.client import object_path
from everesthood.adapters.kubernetes.identity import Asks, ask
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Forbidden, NotFound, Unavailable
from everesthood.usecases.ports.cluster import ApiError

_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404


class KubernetesSecrets:
    """Implements `usecases.ports.identity.Secrets`."""

    def __init__(self, client: Asks) -> None:
        """Ask through `client`, whose account may get Secrets where it is enrolled."""
        self._client = client

    async def value(self, namespace: str, name: str, key: str) -> str:
        """Return one value as text."""
        where = f"Secret {namespace}/{name}"
        data = await self._data(namespace, name, where)
        if key not in data:
            raise NotFound(f"{where} has no key {key!r}.", Reason.SECRET_KEY_NOT_FOUND)
        try:
            return base64.b64decode(data[key], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            # `from None`: the cause would quote the bytes.
            raise NotFound(
                f"Key {key!r} of {where} is not text in UTF-8.", Reason.SECRET_KEY_NOT_FOUND
            ) from None

    async def _data(self, namespace: str, name: str, where: str) -> dict[str, str]:
        path = object_path("v1", "secrets", namespace=namespace, name=name)
        try:
            answer = await ask(self._client, "GET", path)
        except ApiError as error:
            raise _translated(error, namespace, where) from error
        return answer.get("data") or {}


def _translated(error: ApiError, namespace: str, where: str) -> Exception:
    if error.status == _NOT_FOUND:
        return NotFound(f"{where} does not exist.", Reason.SECRET_NOT_FOUND)
    if error.status == _FORBIDDEN:
        return Forbidden(
            f"Namespace {namespace} is not enrolled: the gateway may not read its Secrets.",
            Reason.NAMESPACE_NOT_ENROLLED,
        )
    return Unavailable(f"{where} cannot be read: status {error.status}.", Reason.KUBERNETES_UNAVAILABLE)
