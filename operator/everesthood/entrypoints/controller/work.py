"""The loops of the controller: workers that take keys, and whoever puts keys in line."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from prometheus_client import Counter as Count
from prometheus_client import Gauge, Histogram

from everesthood.adapters.kubernetes.cache import Cache
from everesthood.adapters.kubernetes.workqueue import WorkQueue
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import Unavailable
from everesthood.domain.observed import Key
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.registry import Registry
from everesthood.usecases.publish import Publisher
from everesthood.usecases.watch_demand import DemandWatch

_LOG: Final = logging.getLogger(__name__)
_RECONCILES: Final = Count("everesthood_reconciles", "Passes by kind and outcome.", ["kind", "outcome"])
_LAG: Final = Histogram(
    "everesthood_loop_lag_seconds",
    "How late the event loop runs its timers.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_DESIRED: Final = Gauge(
    "everesthood_scaled_workers_desired",
    "Workers that there should be, by why so many.",
    ["reason"],
)
_AVAILABLE: Final = Gauge(
    "everesthood_scaled_workers_available", "Workers that are up, by why so many should be.", ["reason"]
)
_CONFLICT: Final = 409
_CONFLICT_SECONDS: Final = 1.0
_LAG_PERIOD_SECONDS: Final = 0.5
_HINT_RETRY_SECONDS: Final = 2.0
_ALL: Final = "*"

Reconcile = Callable[[Key], Awaitable[float | None]]


async def work(queue: WorkQueue[Key], reconcile: Reconcile, stopping: asyncio.Event) -> None:
    """Take keys until told to stop; a pass under way is finished first."""
    while not stopping.is_set():
        key = await queue.get()
        try:
            await _once(key, queue, reconcile)
        finally:
            queue.done(key)


async def _once(key: Key, queue: WorkQueue[Key], reconcile: Reconcile) -> None:
    outcome = "ok"
    try:
        again = await reconcile(key)
    except Unavailable as error:
        outcome = "unavailable"
        _LOG.warning("%s waits: %s", key, error.message)
        queue.retry(key)
    except ApiError as error:
        outcome = _refused(key, error, queue)
    except Exception:  # noqa: BLE001 - a defect in one pass must not stop the others
        outcome = "failed"
        _LOG.exception("%s failed", key)
        queue.retry(key)
    else:
        queue.forget(key)
        if again is not None:
            queue.add_after(key, again, late=True)
    _RECONCILES.labels(key.kind.value, outcome).inc()


def _refused(key: Key, error: ApiError, queue: WorkQueue[Key]) -> str:
    """Decide what a refusal of the API server means for the key."""
    if error.is_gone:
        queue.forget(key)
        return "gone"
    if error.status == _CONFLICT:
        queue.add_after(key, _CONFLICT_SECONDS)
        return "conflict"
    _LOG.warning("%s was refused: %s", key, error.message)
    queue.retry(key)
    return "refused"


async def hear(registry: Registry, cache: Cache, queue: WorkQueue[Key], publisher: Publisher) -> None:
    """Enqueue what the record says has changed; it is asked again after any failure."""
    while True:
        try:
            async for uid in registry.changes():
                _heard(uid, cache, queue, publisher)
        except Unavailable as error:
            _LOG.warning("the record does not announce changes now: %s", error.message)
        await asyncio.sleep(_HINT_RETRY_SECONDS)


def _heard(uid: str, cache: Cache, queue: WorkQueue[Key], publisher: Publisher) -> None:
    if uid == _ALL:
        publisher.doubt()
        keys = cache.keys_of_published()
    else:
        publisher.hint(uid)
        key = cache.key_of(uid)
        keys = (key,) if key else ()
    for key in keys:
        queue.add_soon(key)


async def hear_demand(registry: Registry, watch: DemandWatch) -> None:
    """Wake instances that the record says have work; it is asked again after any failure."""
    while True:
        try:
            async for uid in registry.demanded():
                watch.wake(uid)
        except Unavailable as error:
            _LOG.warning("the record does not announce work now: %s", error.message)
        await asyncio.sleep(_HINT_RETRY_SECONDS)


async def watch_demand(watch: DemandWatch, cache: Cache, queue: WorkQueue[Key]) -> None:
    """Enqueue instances that should have more or fewer workers than they have."""
    while True:
        await watch.rest()
        try:
            for uid in await watch.look():
                key = cache.key_of(uid)
                if key is not None:
                    queue.add(key)
        except Unavailable as error:
            _LOG.warning("the work cannot be seen now: %s", error.message)
            await asyncio.sleep(_HINT_RETRY_SECONDS)
        _measure(watch)


def _measure(watch: DemandWatch) -> None:
    wanted: Counter[Reason] = Counter()
    up: Counter[Reason] = Counter()
    for reason, desired, available in watch.numbers():
        wanted[reason] += desired
        up[reason] += available
    for gauge, numbers in ((_DESIRED, wanted), (_AVAILABLE, up)):
        gauge.clear()
        for reason, number in numbers.items():
            gauge.labels(reason.value).set(number)


async def measure_lag() -> None:
    """Observe how late timers run: the first sign of work that blocks the loop."""
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(_LAG_PERIOD_SECONDS)
        _LAG.observe(max(0.0, loop.time() - before - _LAG_PERIOD_SECONDS))
