"""Runs that are due later start when they are due: nobody rings for them and no clock repairs their bells here."""

import asyncio
import itertools
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.test_worker_record import GREETING, RecordGateway, until_state
from tests.support.record import INSTANCE, Harness, databases, record
from tests.support.worker import Serving, executing

from everesthood.apis.wire import Assignment, Finish
from everesthood.domain.limits import Limits, Rate
from everesthood.domain.runs import Dedupe, RunRetry, RunState

__all__ = ["databases", "record"]
pytestmark = pytest.mark.integration

LATE_SECONDS = 0.25
"""What a busy machine may add; without an alarm it would be half a minute."""


async def settled(gateway: RecordGateway) -> None:
    """Wait until the worker has looked around and gone to wait."""
    await gateway.until(lambda: bool(gateway.settles))


class Watched(RecordGateway):
    """Notes when bells are settled."""

    def __init__(self, record: Harness) -> None:
        super().__init__(record)
        self.settles: list[float] = []

    async def work(self, request: Any) -> Any:
        reply = await super().work(request)
        if request.settle_bell:
            self.settles.append(asyncio.get_running_loop().time())
        return reply


async def test_a_debounced_run_starts_when_it_is_quiet(record: Harness) -> None:
    """The ring of its acceptance sets the alarm of an idle worker, which rings when the run is due."""
    await record.registry.publish_instance(INSTANCE)
    gateway = Watched(record)
    async with Serving(gateway, executing(GREETING)) as worker:
        await settled(gateway)
        accepted = await record.accept(dedupe=Dedupe(key="k", mode="debounce", seconds=1))
        assert accepted.ring is not None
        worker.wake()
        await until_state(record, [accepted.run], RunState.SUCCEEDED)

    run = await record.run(accepted.run)
    assert run.started_at is not None
    late = run.started_at - run.created_at - timedelta(seconds=1)
    assert 0 <= late.total_seconds() < LATE_SECONDS


async def test_a_retry_starts_when_its_pause_is_over(record: Harness) -> None:
    """The worker that handed a failed run in asks when it is due again, and is there."""
    await record.registry.publish_instance(INSTANCE)
    act, begun = executing(GREETING), []

    async def fails_once(given: Assignment, journal: Any) -> Finish:
        begun.append(asyncio.get_running_loop().time())
        if len(begun) == 1:
            return Finish(
                run=given.run, fence=given.fence, outcome="failed", transient=True, retry_after_seconds=1.0
            )
        return await act(given, journal)

    accepted = await record.accept(retry=RunRetry(max_attempts=2, initial_seconds=0))
    async with Serving(Watched(record), fails_once):
        await until_state(record, [accepted.run], RunState.SUCCEEDED)

    assert 1.0 <= begun[1] - begun[0] < 1.0 + LATE_SECONDS


async def test_runs_of_a_rate_start_evenly(record: Harness) -> None:
    """Two a second: each of four runs starts when the rate lets it, without an attempt burnt."""
    rate = Limits(rate=Rate(runs=2, period_seconds=1))
    await record.registry.publish_instance(replace(INSTANCE, limits=rate))
    runs = [(await record.accept()).run for _ in range(4)]
    async with Serving(Watched(record), executing(GREETING)):
        await until_state(record, list(runs), RunState.SUCCEEDED)

    found = [await record.run(run) for run in runs]
    starts = [run.started_at for run in found if run.started_at is not None]
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(starts)]
    assert (len(gaps), {run.attempt for run in found}) == (3, {1})
    assert all(0.45 <= gap < 0.5 + LATE_SECONDS for gap in gaps)
