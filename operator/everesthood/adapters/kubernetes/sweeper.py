"""Lists everything: once as the barrier before any work, then now and then to find what watches missed."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Counter, Gauge

from everesthood.adapters.kubernetes.cache import live_of
from everesthood.adapters.kubernetes.client import Client
from everesthood.adapters.kubernetes.cluster import path_of
from everesthood.adapters.kubernetes.watching import Watching
from everesthood.apis import names
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.observed import OURS, SEEN_WHOLE, Kind, Live

_LOG: Final = logging.getLogger(__name__)
_AGE: Final = Gauge("everesthood_cache_age_seconds", "Time since everything was last compared.")
_MISSED: Final = Counter("everesthood_sweep_missed", "Changes that no watch had brought.", ["kind"])
_PAGE: Final = 100
"""Small, for a page as it is decoded takes many times what is kept of it."""
_SPREAD: Final = 0.1
_SECOND_SECONDS: Final = 30.0
_CATCHING_UP: Final = 2
"""So many sweeps take in what is news and no more: the barrier, to which all is news, and the next."""
_FIRST_RETRY_SECONDS: Final = 1.0
_LONGEST_RETRY_SECONDS: Final = 30.0
_STALE_PERIODS: Final = 3


def selector_of(kind: Kind) -> str:
    """Return the label selector by which a kind is listed and watched."""
    whole = kind in OURS or kind in SEEN_WHOLE
    return "" if whole else f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"


class Sweeper:
    """Compares the cache with complete lists."""

    def __init__(
        self,
        client: Client,
        watching: Watching,
        *,
        period_seconds: float,
        after: Callable[[], Awaitable[None]],
    ) -> None:
        """List every `period_seconds`, then do what stands in `after`."""
        self._client = client
        self._watching = watching
        self._period = period_seconds
        self._after = after
        self._last: float | None = None
        self._sweeps = 0
        self.synced = asyncio.Event()
        _AGE.set_function(self.age_seconds)

    def age_seconds(self) -> float:
        """Return the time since everything was last compared."""
        return time.monotonic() - self._last if self._last is not None else 0.0

    def complaint(self) -> str | None:
        """Return what is wrong: nothing was compared for several periods."""
        if self.age_seconds() > _STALE_PERIODS * self._period:
            return f"the last full comparison is {self.age_seconds():.0f} s old"
        return None

    async def run(self) -> None:
        """Sweep for ever; the first sweep opens the barrier."""
        failures = 0
        while True:
            try:
                await self.sweep()
                failures = 0
                wait = self._wait()
            except EveresthoodError as error:
                failures += 1
                wait = min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures, 10))
                _LOG.warning("full comparison failed: %s", error.message)
            await asyncio.sleep(wait)

    def _wait(self) -> float:
        """Return the time to the next sweep; the second closes the gap in which watches were starting."""
        period = min(self._period, _SECOND_SECONDS) if self._sweeps == 1 else self._period
        return period * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 - jitter

    async def sweep(self) -> None:
        """List every kind, enqueue what is news and in time all of ours, then tell whoever waits for it."""
        for kind in Kind:
            await self._list(kind)
        self._last = time.monotonic()
        self._sweeps += 1
        self.synced.set()
        if self._sweeps > _CATCHING_UP:
            self._watching.look_at_all(self._period * _SPREAD)
        await self._after()

    async def _list(self, kind: Kind) -> None:
        selector = selector_of(kind)
        listed: list[Live] = []
        version = "0"
        pages = self._client.list_pages(path_of(kind), label_selector=selector, page=_PAGE)
        async for page, listed_at in pages:
            listed += [live_of(kind, raw) for raw in page]
            version = listed_at
        news = self._watching.listed(kind, listed, int(version))
        if news and self.synced.is_set():
            _MISSED.labels(kind.value).inc(news)
