"""The bell: a nudge to a worker that there is work. It may be lost or doubled without harm."""

from typing import Protocol


class Bell(Protocol):
    """Rings queues."""

    async def ring(self, instance_uid: str, revision: str) -> None:
        """Ring unless an unanswered bell hangs there. Never raises: the scheduler rings again."""
        ...

    async def settle(self, instance_uid: str, revision: str) -> None:
        """Forget the unanswered bell, so that the next ring is heard."""
        ...


class BrokerUsers(Protocol):
    """Users of the broker, one an instance; only a process with admin rights has them."""

    async def ensure(self, instance_uid: str) -> None:
        """Make the user, or bring it back to what it should be."""
        ...

    async def ensure_bell(self) -> None:
        """Make the user that web and gateway ring with, or bring it back to what it should be."""
        ...

    async def remove(self, instance_uid: str) -> None:
        """Remove the user, its connections and its keys."""
        ...

    async def existing(self) -> frozenset[str]:
        """Return the uids of the instances whose user exists."""
        ...
