"""What is known of objects in the cluster: small, frozen, and without a client.

Adapters fill these from watch events, lists and answers; decisions read them.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from everesthood.apis import names


class Kind(StrEnum):
    """Every kind that the controller reads or writes."""

    INSTANCE = "AgentInstance"
    TEMPLATE = "AgentTemplate"
    CREDENTIAL = "AgentCredential"
    SERVICE_ACCOUNT = "ServiceAccount"
    NETWORK_POLICY = "NetworkPolicy"
    DEPLOYMENT = "Deployment"
    DISRUPTION_BUDGET = "PodDisruptionBudget"
    REVISION = "ControllerRevision"


API_VERSIONS: Final[dict[Kind, str]] = {
    Kind.INSTANCE: names.API_VERSION,
    Kind.TEMPLATE: names.API_VERSION,
    Kind.CREDENTIAL: names.API_VERSION,
    Kind.SERVICE_ACCOUNT: "v1",
    Kind.NETWORK_POLICY: "networking.k8s.io/v1",
    Kind.DEPLOYMENT: "apps/v1",
    Kind.DISRUPTION_BUDGET: "policy/v1",
    Kind.REVISION: "apps/v1",
}
OURS: Final = frozenset({Kind.INSTANCE, Kind.TEMPLATE, Kind.CREDENTIAL})
"""Kinds of this project; the others are children that the controller makes."""
SEEN_WHOLE: Final = frozenset({Kind.SERVICE_ACCOUNT, Kind.NETWORK_POLICY, Kind.DISRUPTION_BUDGET})
"""Kinds of children of which everybody's objects are watched, so that a taken name is known without a
call. They change rarely. Of Deployments, which change often, and of ControllerRevisions only our own are
watched: what is not known is applied without force, which the API server refuses onto somebody else's."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which object."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return it as people write it."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """An object as the API server last told it."""

    key: Key
    uid: str
    resource_version: int
    generation: int = 0
    """0 for kinds that have none."""
    owner: str = ""
    """uid of the controlling owner."""
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    """Only those of this project's group."""
    content: bytes = b"{}"
    """JSON of everything but metadata and status."""
    status: bytes = b"{}"
    """JSON of the status, of foreign kinds only the part that decisions read."""
    refs: tuple[Key, ...] = ()
    """Objects that this one names: its template, its credentials."""

    @property
    def hash(self) -> str:
        """Return the digest of what the controller last asked for."""
        return self.annotations.get(names.ANNOTATION_DESIRED_HASH, "")

    @property
    def revision(self) -> str:
        """Return the template revision that the object belongs to."""
        return self.labels.get(names.LABEL_REVISION, "")
