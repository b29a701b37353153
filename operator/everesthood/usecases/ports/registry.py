"""The registry: what the controller publishes to the record, and what others find there."""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from everesthood.domain.limits import UNLIMITED, Limits
from everesthood.domain.queues import Pause, Stop
from everesthood.domain.scaling import Demand
from everesthood.domain.schedules import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedInstance:
    """An accepted AgentInstance, as the gateway, the web API and the scheduler know it."""

    uid: str
    namespace: str
    name: str
    generation: int
    template: str
    service_account: str
    current_revision: str | None
    """Revision that new runs start on; None until one has been good."""
    config: bytes
    """JSON."""
    bindings: dict[str, str] = field(default_factory=dict)
    """Credential slot → name of the AgentCredential."""
    suspended: bool = False
    schedules: tuple[Schedule, ...] = ()
    limits: Limits = UNLIMITED
    quiet: tuple[str, ...] = ()
    """Revisions whose work the controller wants to hear of, because it does not look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTemplate:
    """An accepted AgentTemplate as far as it is more than its revisions: what holds for all its instances."""

    uid: str
    namespace: str
    name: str
    generation: int
    limits: Limits = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRevision:
    """One immutable content of a template."""

    namespace: str
    digest: str
    template: str
    spec: bytes
    """AgentTemplateSpec as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCredential:
    """An AgentCredential, without its value."""

    uid: str
    namespace: str
    name: str
    generation: int
    type: str
    header: str
    secret_name: str
    secret_key: str
    hosts: tuple[str, ...]
    allowed_instances: tuple[str, ...]
    limits: Limits = UNLIMITED


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """What the controller must know of an instance's queue."""

    ready: bool
    """The broker user exists."""
    open_revisions: frozenset[str]
    """Revisions that still hold runs which are not over."""
    pause: Pause | None = None
    stop: Stop | None = None
    """What people hold the queue with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialObservation:
    """What the gateway saw when it last looked at a credential's value."""

    reason: str
    """CredentialVerified, SecretNotFound, SecretKeyNotFound or NamespaceNotEnrolled."""
    fingerprint: str
    changed_at: datetime | None


class Registry(Protocol):
    """Where the controller publishes; every call is idempotent."""

    async def publish_instance(self, instance: PublishedInstance) -> None:
        """Write the instance with its schedules; unchanged content writes nothing.

        A schedule whose timing is new counts from now; every other keeps its next time.
        """
        ...

    async def publish_template(self, template: PublishedTemplate) -> None:
        """Write the template; unchanged content writes nothing."""
        ...

    async def publish_revision(self, revision: PublishedRevision) -> None:
        """Keep the content; a digest is never rewritten."""
        ...

    async def publish_credential(self, credential: PublishedCredential) -> None:
        """Write the credential; unchanged content writes nothing."""
        ...

    async def remove_instance(self, uid: str) -> None:
        """Cancel what waits, forget schedules, mark the instance deleted, so that its broker user goes."""
        ...

    async def remove_template(self, uid: str) -> None:
        """Forget the template; its revisions stay."""
        ...

    async def remove_credential(self, uid: str) -> None:
        """Forget the credential."""
        ...

    async def known_instances(self) -> frozenset[str]:
        """Return the uids of all instances that are not marked deleted."""
        ...

    async def known_templates(self) -> frozenset[str]:
        """Return the uids of all templates."""
        ...

    async def known_credentials(self) -> frozenset[str]:
        """Return the uids of all credentials."""
        ...

    async def queue_state(self, uid: str) -> QueueState:
        """Return how far the instance's queue is."""
        ...

    async def credential_state(self, uid: str) -> CredentialObservation | None:
        """Return what the gateway saw, None before its first look."""
        ...

    def changes(self) -> AsyncIterator[str]:
        """Yield the uid of each instance or credential whose state above changed; survives reconnects.

        A hint, not a promise: whoever waits for a change also looks again after a while.
        """
        ...

    async def demand(self, most: Mapping[str, int]) -> Mapping[str, Mapping[str, Demand]]:
        """Return what there is to do for each of these instances, by revision; what is missing has nothing.

        `most` says per instance how many due runs are worth counting.
        """
        ...

    async def ask_to_leave(self, uid: str, revision: str, count: int, *, drain: bool) -> None:
        """Say how many workers of a revision may leave, those included that are leaving already.

        With `drain`, workers that hold runs may too, once those that hold none have had their chance.
        """
        ...

    async def forget_leavers(self, uid: str, revision: str, pods: Collection[str]) -> None:
        """Forget workers whose pods are gone, and as much of the wish as they were."""
        ...

    def demanded(self) -> AsyncIterator[str]:
        """Yield the uid of each instance that has work for a quiet revision; `*` means any of them.

        Whoever accepts work tells at once; the scheduler tells of work that nobody claims.
        """
        ...
