"""Whether an instance may use a credential, where it may be sent, and how a value is told from another."""

import hashlib
import hmac
from collections.abc import Collection
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Forbidden, NotFound

_FINGERPRINT_LENGTH: Final = 16


def fingerprint(key: bytes, value: str) -> str:
    """Return a keyed digest that changes when the value does and says nothing else about it."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:_FINGERPRINT_LENGTH]


def usable(value: str) -> str:
    """Return the value without the line end that files bring along; no header may hold one."""
    return value.rstrip("\r\n")


def not_bound(slot: str) -> NotFound:
    """Return the refusal of a slot that the instance does not fill or the template does not have."""
    said = f"Credential slot {slot!r} is not bound; add it to spec.credentials of the AgentInstance."
    return NotFound(said, Reason.CREDENTIAL_NOT_BOUND)


def not_found(name: str) -> NotFound:
    """Return the refusal of a credential that does not exist."""
    return NotFound(f"There is no AgentCredential {name!r} in the namespace.", Reason.CREDENTIAL_NOT_FOUND)


def refusal(
    *, name: str, instance: str, allowed_instances: Collection[str], hosts: Collection[str]
) -> EveresthoodError | None:
    """Return why an instance may not use a credential, None if it may. `hosts`: of slot and credential."""
    if allowed_instances and instance not in allowed_instances:
        said = f"AgentCredential {name!r} does not allow the AgentInstance {instance!r}."
        return Forbidden(said, Reason.CREDENTIAL_NOT_ALLOWED)
    if not hosts:
        said = f"AgentCredential {name!r} may be sent to none of the hosts of the slot."
        return Forbidden(said, Reason.CREDENTIAL_NOT_ALLOWED)
    return None


def sendable_hosts(slot_hosts: Collection[str], credential_hosts: Collection[str]) -> tuple[str, ...]:
    """Return the hosts on both lists, in the slot's order."""
    return tuple(host for host in slot_hosts if host in credential_hosts)
