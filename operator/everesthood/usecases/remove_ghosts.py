"""Takes out of the record what is no longer in the cluster: deletions that nobody was there to see."""

from typing import Protocol

from everesthood.domain.observed import Kind
from everesthood.usecases.ports.registry import Registry


class Census(Protocol):
    """Who is in the cluster, as a complete list said a moment ago."""

    def uids(self, kind: Kind) -> frozenset[str]:
        """Return the uids of all objects of a kind."""
        ...


async def remove_ghosts(registry: Registry, census: Census) -> int:
    """Remove them; return how many.

    The record is asked before the census: whatever is published in between is in the census too.
    """
    instances = await registry.known_instances()
    templates = await registry.known_templates()
    credentials = await registry.known_credentials()
    gone = instances - census.uids(Kind.INSTANCE)
    dropped = templates - census.uids(Kind.TEMPLATE)
    lost = credentials - census.uids(Kind.CREDENTIAL)
    for uid in sorted(gone):
        await registry.remove_instance(uid)
    for uid in sorted(dropped):
        await registry.remove_template(uid)
    for uid in sorted(lost):
        await registry.remove_credential(uid)
    return len(gone) + len(dropped) + len(lost)
