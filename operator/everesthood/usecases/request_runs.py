"""Request several runs of one instance in one call; a refused one stops no other."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

from everesthood.domain.errors import Invalid, Problem, Refused
from everesthood.usecases.request_run import Answer, RequestRun, Wish

MOST_AT_ONCE: Final = 100


async def request_runs(request_run: RequestRun, wishes: Sequence[Wish]) -> Sequence[Answer | Refused]:
    """Return what became of each wish, in order; what was accepted is durable.

    Raises:
        Invalid: there are none, or too many; nothing was accepted.
        Unavailable: the record is down; with an idempotency key each, the same call may be sent again.
    """
    if not 1 <= len(wishes) <= MOST_AT_ONCE:
        what = f"must be 1 to {MOST_AT_ONCE} runs"
        raise Invalid(f"/runs {what}.", problems=(Problem("/runs", what),))
    return await asyncio.gather(*(_one(request_run, wish) for wish in wishes))


async def _one(request_run: RequestRun, wish: Wish) -> Answer | Refused:
    try:
        return await request_run(wish)
    except Refused as error:
        return error


def key_of(key: str | None, index: int) -> str | None:
    """Return a key of its own for each run that is requested under one."""
    return None if key is None else f"bulk-{hashlib.sha256(f'{key} {index}'.encode()).hexdigest()}"
