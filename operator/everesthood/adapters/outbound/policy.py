"""Where an agent's calls may go, decided by name before anything is resolved."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from everesthood.apis.reasons import Reason
from everesthood.domain import hosts
from everesthood.domain.errors import StepFailed
from everesthood.domain.hosts import Endpoint

_LONGEST_URL: Final = 8192
_HOST: Final = re.compile(r"^[a-z0-9]([-a-z0-9._]*[a-z0-9])?$|^\[[0-9a-f:.]+\]$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The hosts of one agent."""

    egress: tuple[str, ...]
    """What the template lists, `host` or `host:port`."""
    internal_hosts: frozenset[str] = frozenset()
    """What the platform opens inside the cluster, `host:port`."""
    slots: Mapping[str, tuple[str, ...]]
    """Hosts that each bound credential slot may be sent to."""

    def target(self, url: str) -> Endpoint:
        """Return where the URL leads, or raise StepFailed when the agent may not call it."""
        endpoint = _parsed(url)
        if self.is_internal(endpoint):
            return endpoint
        why = hosts.internal(endpoint.host)
        if why is not None:
            raise StepFailed(f"{endpoint.host} {why}, which agents may not call", Reason.ADDRESS_REFUSED)
        if not hosts.allows(self.egress, endpoint):
            said = f"{endpoint.shown} is not in the template's spec.egress.hosts"
            raise StepFailed(said, Reason.HOST_REFUSED)
        return endpoint

    def is_internal(self, endpoint: Endpoint) -> bool:
        """Return whether the platform opened this host inside the cluster."""
        return endpoint.address in self.internal_hosts

    def check_credential(self, slot: str, endpoint: Endpoint, hosts_of_credential: tuple[str, ...]) -> None:
        """Raise StepFailed unless the slot's value may be sent there.

        Both have a say: the template by its slot, and the owner of the credential.
        """
        if slot not in self.slots:
            raise StepFailed(f"credential slot {slot} is not bound", Reason.CREDENTIAL_NOT_BOUND)
        for listed, whose in ((self.slots[slot], "the slot's"), (hosts_of_credential, "the credential's")):
            if not hosts.allows(listed, endpoint):
                said = (
                    f"credential slot {slot} may not be sent to {endpoint.shown}: it is not in {whose} hosts"
                )
                raise StepFailed(said, Reason.HOST_REFUSED)
        if endpoint.scheme == "http" and not self.is_internal(endpoint):
            said = f"credential slot {slot} may be sent to {endpoint.shown} over https only"
            raise StepFailed(said, Reason.HOST_REFUSED)


def _parsed(url: str) -> Endpoint:
    if len(url) > _LONGEST_URL:
        raise StepFailed(f"the URL is longer than {_LONGEST_URL} characters", Reason.HOST_REFUSED)
    try:
        endpoint = hosts.literal_endpoint(url)
    except hosts.BadUrl as error:
        raise StepFailed(f"the URL {error}", Reason.HOST_REFUSED) from None
    if endpoint is None or not _HOST.match(endpoint.host):
        raise StepFailed("the URL names no host that can be called", Reason.HOST_REFUSED)
    return endpoint
