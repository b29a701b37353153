"""The bell and its users in memory, for tests of everything that rings."""

import time
from collections import Counter
from collections.abc import Callable

from everesthood.domain.bells import BELL_SECONDS


class MemoryBell:
    """The port `Bell`; `waiting` counts the messages that lie in each queue."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Measure how long a bell rings with this clock."""
        self._now = now
        self._ringing: dict[tuple[str, str], float] = {}
        self.waiting: Counter[tuple[str, str]] = Counter()

    async def ring(self, instance_uid: str, revision: str) -> None:
        """Ring unless a bell rings there or a message waits."""
        queue = (instance_uid, revision)
        if self._ringing.get(queue, 0.0) > self._now():
            return
        self._ringing[queue] = self._now() + BELL_SECONDS
        if not self.waiting[queue]:
            self.waiting[queue] += 1

    async def settle(self, instance_uid: str, revision: str) -> None:
        """Forget the bell; a message that waits stays."""
        self._ringing.pop((instance_uid, revision), None)

    def hear(self, instance_uid: str, revision: str) -> bool:
        """Take a message as a worker does; say whether there was one."""
        queue = (instance_uid, revision)
        heard = self.waiting[queue] > 0
        self.waiting[queue] -= heard
        return heard

    def lose_everything(self) -> None:
        """Be emptied, as a broker may be at any moment."""
        self._ringing.clear()
        self.waiting.clear()


class MemoryBrokerUsers:
    """The port `BrokerUsers`."""

    def __init__(self) -> None:
        """Start as a broker does: with no user."""
        self.users: set[str] = set()
        self.has_bell_user = False

    async def ensure(self, instance_uid: str) -> None:
        """Have the user."""
        self.users.add(instance_uid)

    async def ensure_bell(self) -> None:
        """Have the user that rings."""
        self.has_bell_user = True

    async def remove(self, instance_uid: str) -> None:
        """Have it no longer."""
        self.users.discard(instance_uid)

    async def existing(self) -> frozenset[str]:
        """Return whom there is."""
        return frozenset(self.users)

    def lose_everything(self) -> None:
        """Be restarted: users are gone."""
        self.users.clear()
        self.has_bell_user = False
