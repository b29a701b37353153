"""The registry with a memory: what is in the record already is not written again.

The memory is lost with the process; the first reconcile after a start then publishes once more,
which changes nothing in the record.
"""

from everesthood.domain.errors import Unavailable
from everesthood.domain.instances import Queue
from everesthood.domain.observed import Key
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedRevision,
    PublishedTemplate,
    Registry,
)


class Publisher:
    """Publishes differences and remembers answers that do not change by themselves."""

    def __init__(self, registry: Registry) -> None:
        """Start without memories."""
        self._registry = registry
        self._instances: dict[Key, PublishedInstance] = {}
        self._templates: dict[Key, PublishedTemplate] = {}
        self._credentials: dict[Key, PublishedCredential] = {}
        self._revisions: set[tuple[str, str]] = set()
        self._queues: dict[str, Queue] = {}

    async def instance(self, key: Key, wanted: PublishedInstance) -> bool:
        """Publish an instance if it is not published like that; return whether that was so."""
        known = self._instances.get(key)
        if known == wanted:
            return False
        if known is not None and known.uid != wanted.uid:
            await self._registry.remove_instance(known.uid)
        await self._registry.publish_instance(wanted)
        self._instances[key] = wanted
        return True

    async def template(self, key: Key, wanted: PublishedTemplate) -> None:
        """Publish a template if it is not published like that."""
        if self._templates.get(key) != wanted:
            await self._registry.publish_template(wanted)
            self._templates[key] = wanted

    async def credential(self, key: Key, wanted: PublishedCredential) -> None:
        """Publish a credential if it is not published like that."""
        known = self._credentials.get(key)
        if known == wanted:
            return
        if known is not None and known.uid != wanted.uid:
            await self._registry.remove_credential(known.uid)
        await self._registry.publish_credential(wanted)
        self._credentials[key] = wanted

    async def revision(self, wanted: PublishedRevision) -> None:
        """Publish a revision once."""
        if (wanted.namespace, wanted.digest) not in self._revisions:
            await self._registry.publish_revision(wanted)
            self._revisions.add((wanted.namespace, wanted.digest))

    def has_revision(self, namespace: str, digest: str) -> bool:
        """Return whether this process published the revision already."""
        return (namespace, digest) in self._revisions

    async def queue(self, uid: str, *, fresh: bool) -> Queue:
        """Return the state of a queue; a ready one is asked for again only when `fresh` or hinted at."""
        known = self._queues.get(uid)
        if known is not None and not fresh:
            return known
        try:
            state = await self._registry.queue_state(uid)
        except Unavailable:
            return Queue(reached=False)
        queue = Queue(
            reached=True,
            ready=state.ready,
            open_revisions=state.open_revisions,
            pause=state.pause,
            stop=state.stop,
        )
        if queue.ready:
            self._queues[uid] = queue
        return queue

    async def credential_state(self, uid: str) -> CredentialObservation | None:
        """Return what the gateway saw of a credential's value."""
        return await self._registry.credential_state(uid)

    async def drop_instance(self, key: Key, uid: str | None = None) -> None:
        """Remove an instance from the record, by the uid given or remembered."""
        known = self._instances.get(key)
        gone = uid or (known.uid if known else None)
        if gone is not None:
            await self._registry.remove_instance(gone)
            self._queues.pop(gone, None)
        if known is not None and known.uid == gone:
            del self._instances[key]

    async def drop_template(self, key: Key) -> None:
        """Remove a template that is remembered from the record."""
        known = self._templates.get(key)
        if known is not None:
            await self._registry.remove_template(known.uid)
            del self._templates[key]

    async def drop_credential(self, key: Key) -> None:
        """Remove a credential that is remembered from the record."""
        known = self._credentials.get(key)
        if known is not None:
            await self._registry.remove_credential(known.uid)
            del self._credentials[key]

    def hint(self, uid: str) -> None:
        """Hear that something about an instance's queue changed."""
        self._queues.pop(uid, None)

    def doubt(self) -> None:
        """Ask for every queue anew: part of a full comparison."""
        self._queues.clear()
