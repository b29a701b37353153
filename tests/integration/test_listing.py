"""Lists over PostgreSQL look at a bounded number of runs, and miss none for it."""

from collections.abc import AsyncIterator

import pytest
from tests.support.record import INSTANCE, Harness, database_url, databases, finish, postgres_harness

from everesthood.adapters.postgres import listing
from everesthood.domain.errors import Unavailable
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import RunFilter

__all__ = ["database_url", "databases"]
pytestmark = pytest.mark.integration


@pytest.fixture
async def record(database_url: str) -> AsyncIterator[Harness]:
    async with postgres_harness(database_url) as harness:
        await harness.registry.publish_instance(INSTANCE)
        yield harness


@pytest.mark.parametrize("wanted", [{"labels": {"n": "1"}}, {"text": "needle"}, {"reason": "HostRefused"}])
async def test_a_page_ends_where_it_looked_to(record: Harness, wanted: dict[str, object]):
    """Short and empty pages lead on until everything was looked at; each run is found once."""
    ids = []
    for n in range(20):
        hit = n in {0, 3, 4, 19}
        text = b'"needle"' if hit else b'"hay"'
        ids.append((await record.accept(input=text, labels={"n": "1"} if hit else {})).run)
    held = await record.claim(20)
    hits = {ids[n] for n in (0, 3, 4, 19)}
    await record.hand_in(*(finish(h, "failed", reason="HostRefused") for h in held if h.run in hits))

    found: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        wish = RunFilter(namespace="acme", before=cursor, limit=2, **wanted)  # type: ignore[arg-type]
        page = await listing.page(record.database, wish, window=3)
        found += [run.id for run in page.runs]
        cursor, pages = page.next, pages + 1

    assert found == sorted(hits, reverse=True)
    assert pages <= 9


async def test_texts_too_large_to_be_searched_in_time_make_the_page_smaller(
    record: Harness, monkeypatch: pytest.MonkeyPatch
):
    """The search looks at fewer runs before it gives up."""
    sizes: list[int] = []
    real = listing._page

    async def slow(database, wanted, window):
        sizes.append(window)
        if window > 100:
            async with database.acquire() as connection, connection.transaction():
                await connection.execute("set local statement_timeout = 1; select pg_sleep(1)")
        return await real(database, wanted, window)

    monkeypatch.setattr(listing, "_page", slow)
    run = await record.accept()

    page = await listing.page(record.database, RunFilter(namespace="acme", text="World"))
    monkeypatch.setattr(listing, "_SMALLER", (1_000,))
    with pytest.raises(Unavailable):
        await listing.page(record.database, RunFilter(namespace="acme", text="World"))

    assert [one.id for one in page.runs] == [run.run]
    assert sizes == [listing.TEXT_WINDOW, 1_000, 100, listing.TEXT_WINDOW, 1_000]


async def test_failed_runs_are_found_behind_many_others(record: Harness):
    """Dead letters have a walk of their own: the window is theirs."""
    await record.accept()
    (held,) = await record.claim()
    await record.hand_in(finish(held, "failed"))
    for _ in range(5):
        await record.accept()

    dead = RunFilter(namespace="acme", states=frozenset({RunState.DEAD, RunState.EXPIRED}))
    page = await listing.page(record.database, dead, window=3)

    assert [run.id for run in page.runs] == [held.run]
    assert page.next is None
