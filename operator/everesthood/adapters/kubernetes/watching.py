"""Turns what is seen of objects into keys to look at: the object itself, its owner, those that name it."""

import random
from collections.abc import Callable, Iterable
from typing import Final

from everesthood.adapters.kubernetes.cache import Cache, Change
from everesthood.adapters.kubernetes.workqueue import WorkQueue
from everesthood.domain.observed import OURS, Key, Kind, Live

_FAN_OUT_PER_SECOND: Final = 20.0


class Watching:
    """Feeds cache and queue, from watch events and from lists alike."""

    def __init__(self, cache: Cache, queue: WorkQueue[Key], rng: Callable[[], float] = random.random) -> None:
        """Feed these two."""
        self._cache = cache
        self._queue = queue
        self._rng = rng

    def saw(self, event: str | None, live: Live) -> None:
        """Take in a watch event: ADDED, MODIFIED, DELETED, or None for a listed object."""
        change = self._cache.drop(live) if event == "DELETED" else self._cache.put(live)
        if change is not None:
            self.heard(change)

    def wrote(self, live: Live) -> None:
        """Take in the answer to a write of our own: news for neighbours, none for who wrote."""
        change = self._cache.put(live)
        if change is not None and change.is_relevant:
            if change.key.kind in OURS:
                self._tell_neighbours(change)
            else:
                self._tell_users_of_revision(change)

    def listed(self, kind: Kind, listed: Iterable[Live], version: int) -> int:
        """Take in a complete list; return how much of it was news."""
        changes = self._cache.replace(kind, listed, version)
        for change in changes:
            self.heard(change)
        return len(changes)

    def heard(self, change: Change) -> None:
        """Enqueue whoever the change may matter to."""
        if not change.is_relevant:
            return
        if change.key.kind in OURS:
            self._queue.add_soon(change.key, edited=True)
            self._tell_neighbours(change)
        else:
            self._tell_owner(change)

    def look_at_all(self, spread_seconds: float) -> None:
        """Enqueue every object of ours, spread over a while."""
        for kind in OURS:
            for key in self._cache.keys(kind):
                self._queue.add_after(key, self._rng() * spread_seconds)

    def _tell_neighbours(self, change: Change) -> None:
        if change.key.kind is not Kind.INSTANCE:
            if change.matters_to_users:
                self._fan_out(self._cache.referrers(change.key))
        elif change.before is None or change.after is None:
            for ref in (change.after or change.before).refs:  # type: ignore[union-attr]
                if ref.kind is Kind.TEMPLATE and self._cache.get(ref) is not None:
                    self._queue.add_soon(ref)  # it counts its instances

    def _tell_owner(self, change: Change) -> None:
        """Enqueue the owner, before and after."""
        for live in filter(None, (change.before, change.after)):
            owner = self._cache.key_of(live.owner)
            if owner is None:
                continue
            self._queue.add_soon(owner)
        self._tell_users_of_revision(change)

    def _tell_users_of_revision(self, change: Change) -> None:
        """Enqueue all instances of a template that got or lost a revision."""
        live = change.after or change.before
        if live is not None and live.key.kind is Kind.REVISION and _came_or_went(change):
            owner = self._cache.key_of(live.owner)
            if owner is not None:
                self._fan_out(self._cache.referrers(owner))

    def _fan_out(self, keys: tuple[Key, ...]) -> None:
        """Enqueue many; a crowd is spread, so that one template does not stop all else."""
        spread = max(0.0, (len(keys) - _FAN_OUT_PER_SECOND) / _FAN_OUT_PER_SECOND)
        for key in keys:
            if spread:
                self._queue.add_after(key, self._rng() * spread)
            else:
                self._queue.add_soon(key)


def _came_or_went(change: Change) -> bool:
    return change.before is None or change.after is None
