"""The gateway looks at credentials again and again, whatever happens to a look."""

import asyncio

import pytest

from everesthood.domain.errors import Unavailable
from everesthood.entrypoints.gateway import duties


async def test_looking_never_ends(monkeypatch: pytest.MonkeyPatch):
    """A record that is away, a defect and a cluster that is away each cost one look; then it goes on."""
    for pause in ("_LOOK_SECONDS", "_FAILED_SECONDS"):
        monkeypatch.setattr(duties, pause, 0.0)
    answers = iter([Unavailable("away"), ValueError("a defect"), {"unavailable": 1}, {"SecretNotFound": 2}])
    ages, enough = [], asyncio.Event()

    async def observe(older_than_seconds: float):
        ages.append(older_than_seconds)
        answer = next(answers, None)
        if answer is None:
            enough.set()
            await asyncio.sleep(3600)
        if isinstance(answer, Exception):
            raise answer
        return answer

    looking = asyncio.create_task(duties.keep_observing(observe))
    async with asyncio.timeout(5):
        await enough.wait()
    looking.cancel()

    assert len(ages) == 5
    assert all(27 <= age <= 33 for age in ages)
