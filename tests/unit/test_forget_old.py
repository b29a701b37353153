"""How the record is kept from growing: in small batches, from where the last pass stopped."""

import pytest

from everesthood.domain.keeping import Keeping
from everesthood.usecases.forget_old import SECONDS_EACH, WALK_SECONDS, Forgetter
from everesthood.usecases.ports.keeping import KINDS, Forgotten

KEEPING = Keeping(runs=30, dead_runs=90, log_lines=14, keys=7, audit=365)


class Store:
    """A record in which each batch of runs takes a while; it has so many of them."""

    def __init__(self, batches: int, seconds: float = 1.0) -> None:
        self.left = batches
        self.seconds = seconds
        self.time = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.rested = 0.0

    async def forget(self, kind, keeping, after, limit):
        self.asked.append((kind, after))
        if kind != "runs":
            return Forgotten(counts={}, next=None)
        self.time += self.seconds
        self.left -= 1
        return Forgotten(counts={"runs": limit}, next=f"batch {self.left}" if self.left else None)

    async def rest(self, seconds: float) -> None:
        self.rested += seconds
        self.time += seconds

    def forgetter(self) -> Forgetter:
        return Forgetter(store=self, keeping=KEEPING, now=lambda: self.time, sleep=self.rest)


async def test_a_pass_is_short_and_the_next_goes_on_where_it_stopped():
    """However much is old, a pass ends in time for the other kinds and for the duty's own health."""
    store = Store(batches=10)
    forgetter = store.forgetter()

    await forgetter.forget()
    assert store.time < 2 * SECONDS_EACH
    assert {kind for kind, _ in store.asked} == set(KINDS)

    first = store.asked.count(("runs", None))
    while store.left:
        await forgetter.forget()
    assert (first, store.asked.count(("runs", None))) == (1, 1)


async def test_it_rests_as_long_as_it_works():
    """Deleting never takes more than half of a connection."""
    store = Store(batches=4, seconds=0.5)

    await store.forgetter().forget()

    assert store.rested == pytest.approx(3 * 0.5)


async def test_a_walk_that_came_to_its_end_is_not_begun_again_at_once():
    """What stays is not walked over and over."""
    store = Store(batches=1)
    forgetter = store.forgetter()
    await forgetter.forget()
    store.left = 1
    await forgetter.forget()
    assert len(store.asked) == len(KINDS)

    store.time += WALK_SECONDS
    await forgetter.forget()

    assert len(store.asked) == 2 * len(KINDS)
