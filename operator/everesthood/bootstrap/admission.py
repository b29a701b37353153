"""Wires the admission webhook."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from everesthood.adapters.kubernetes.client import connect
from everesthood.adapters.kubernetes.reader import Reader
from everesthood.adapters.languages import Languages
from everesthood.domain.manifests import Verdict
from everesthood.settings import Settings
from everesthood.usecases.review_manifest import Review, review_manifest


@asynccontextmanager
async def reviewer(settings: Settings) -> AsyncIterator[Callable[[Review], Awaitable[Verdict]]]:
    """Yield the function that judges a write, and close what it holds."""
    async with await connect(settings.kubeconfig, timeout_seconds=3.0) as client:
        yield partial(
            review_manifest,
            lookup=Reader(client),
            languages=Languages(),
            internal_hosts=settings.internal_host_set,
        )
