"""Forget what is over for long enough: little by little, beside the work, and going on where it stopped."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from everesthood.domain.keeping import Keeping
from everesthood.usecases.ports.keeping import KINDS, KeepStore, Kind

BATCH: Final = 500
SECONDS_EACH: Final = 5.0
"""How long one pass gives to each kind; what is left then is for the next pass."""
WALK_SECONDS: Final = 300.0
"""How long a kind is left alone that was walked to its end: each walk passes all that stays, too."""
_SHORTEST_REST: Final = 0.005


@dataclass(slots=True, kw_only=True)
class Forgetter:
    """Runs passes. It rests as long as it works, so that it never has more than half of a connection."""

    store: KeepStore
    keeping: Keeping
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    _places: dict[Kind, str] = field(default_factory=dict, init=False)
    _rests_until: dict[Kind, float] = field(default_factory=dict, init=False)

    async def forget(self) -> Mapping[str, int]:
        """Walk each kind from where the last pass stopped, and count what is gone."""
        done: Counter[str] = Counter()
        for kind in KINDS:
            if kind not in self._rests_until or self.now() >= self._rests_until[kind]:
                await self._walk(kind, done)
        return done

    async def _walk(self, kind: Kind, done: Counter[str]) -> None:
        until = self.now() + SECONDS_EACH
        while True:
            began = self.now()
            batch = await self.store.forget(kind, self.keeping, self._places.get(kind), BATCH)
            done.update(batch.counts)
            if batch.next is None:
                self._places.pop(kind, None)
                self._rests_until[kind] = self.now() + WALK_SECONDS
                return
            self._places[kind] = batch.next
            if self.now() >= until:
                return
            await self.sleep(max(_SHORTEST_REST, self.now() - began))
