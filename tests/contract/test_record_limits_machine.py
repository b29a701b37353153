"""Limits under whatever happens: the twin in memory and PostgreSQL let in the same runs and keep back the same."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.postgres import Databases
from tests.support.record import (
    CREDENTIAL,
    INSTANCE,
    TEMPLATE,
    Harness,
    finish,
    memory_harness,
    new_id,
    postgres_harness,
    seat,
    wish,
)

from everesthood.apis.wire import Assignment, WorkRequest
from everesthood.domain.limits import UNLIMITED, Limits, OrganizationLimits, Rate, Shared

pytestmark = pytest.mark.contract
# No sum of the ages below is a multiple of an interval: two clocks must not decide at its very end.
RATE = Rate(runs=7, period_seconds=100, burst=3)
LIMITS = st.sampled_from(
    [UNLIMITED, Limits(concurrency=2), Limits(rate=RATE), Limits(concurrency=3, rate=RATE)]
)
INSTANCES = {"uid-a": "acme", "uid-b": "acme", "uid-g": "globex"}
UIDS = st.sampled_from(sorted(INSTANCES))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), UIDS, st.integers(1, 4)),
        st.tuples(st.just("claim"), UIDS, st.integers(1, 5)),
        st.tuples(st.just("claim"), UIDS, st.integers(1, 5)),
        st.tuples(
            st.just("finish"), st.integers(0, 20), st.sampled_from(["succeeded", "released", "failed"])
        ),
        st.tuples(st.just("age"), st.sampled_from([3, 16, 31]), st.none()),
        st.tuples(st.just("hold"), st.sampled_from([7.0, 23.0]), st.none()),
        st.tuples(st.just("limit"), UIDS, LIMITS),
    ),
    min_size=10,
    max_size=40,
)


@dataclass(kw_only=True)
class Both:
    """The same record twice."""

    runner: asyncio.Runner
    postgres: Harness
    memory: Harness

    def do(self, act: Callable[[Harness], Awaitable[object]]) -> tuple[object, object]:
        async def twice() -> tuple[object, object]:
            return await act(self.memory), await act(self.postgres)

        return self.runner.run(twice())

    def wipe(self) -> None:
        async def wiped() -> None:
            assert self.postgres.database is not None
            async with self.postgres.database.acquire() as connection:
                await connection.execute(
                    "delete from run; delete from run_limit; delete from kept_back; delete from instance;"
                    " delete from credential; delete from template"
                )

        self.runner.run(wiped())
        self.memory = memory_harness()


@pytest.fixture
def both(databases: Databases) -> Iterator[Both]:
    """Yield both records."""
    with asyncio.Runner() as runner:
        url = runner.run(databases.borrow())
        harness = postgres_harness(url, size=2)
        yield Both(runner=runner, postgres=runner.run(harness.__aenter__()), memory=memory_harness())
        runner.run(harness.__aexit__(None, None, None))
        runner.run(databases.give_back(url))


class History:
    """What was done so far, and what runs."""

    def __init__(self, both: Both) -> None:
        self._both = both
        self._generation = 1
        self._held: list[tuple[str, Assignment]] = []

    def do(self, name: str, what: object, how: object) -> None:
        getattr(self, name)(what, how)

    def publish(self, uid: str, limits: Limits, **changes: object) -> None:
        self._generation += 1
        made = replace(
            INSTANCE,
            uid=uid,
            namespace=INSTANCES[uid],
            name=uid,
            generation=self._generation,
            limits=limits,
            **changes,  # type: ignore[arg-type]
        )
        self._both.do(lambda record: record.registry.publish_instance(made))

    def limit(self, uid: str, limits: Limits) -> None:
        self.publish(uid, limits)

    def accept(self, uid: str, count: int) -> None:
        for _ in range(count):
            request = wish(id=new_id(), instance_uid=uid, namespace=INSTANCES[uid], max_attempts=20)
            self._both.do(lambda record, request=request: record.runs.accept(request))

    def claim(self, uid: str, want: int) -> None:
        twin, real = self._both.do(lambda record: record.work.work(seat(uid=uid), WorkRequest(want=want)))
        for reply in (twin, real):
            assert reply.lost == ()
        assert (_names(twin), twin.denied) == (_names(real), real.denied)
        assert twin.next_due_in == pytest.approx(real.next_due_in, abs=1)
        self._held += [(uid, held) for held in real.assignments]

    def finish(self, number: int, outcome: str) -> None:
        if self._held:
            uid, held = self._held.pop(number % len(self._held))
            done = WorkRequest(finished=(finish(held, outcome),))
            self._both.do(lambda record: record.work.work(seat(uid=uid), done))

    def age(self, seconds: int, _: None) -> None:
        self._both.do(lambda record: record.age(seconds))

    def hold(self, seconds: float, _: None) -> None:
        self._both.do(lambda record: record.gateway.hold_credential("acme", "model-key", seconds))

    def check(self, shared: Shared) -> None:
        """No more run than the installation allows."""
        running = Counter(INSTANCES[uid] for uid, _ in self._held)
        if shared.platform.concurrency is not None:
            assert sum(running.values()) <= shared.platform.concurrency
        if shared.organization.concurrency is not None:
            assert max(running.values(), default=0) <= shared.organization.concurrency


@pytest.mark.parametrize("platform", [UNLIMITED, Limits(concurrency=4)], ids=["apart", "shared"])
def test_the_twin_and_postgres_let_in_the_same_runs(both: Both, platform: Limits):
    """Accepts, claims, ends, holds and changed limits in whatever order: both answer alike, and nothing is oversold."""

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(steps=STEPS, limits=LIMITS, of_all=LIMITS, key=LIMITS, organization=st.sampled_from([None, 3]))
    def hold_to_the_same(steps, limits, of_all, key, organization) -> None:
        both.wipe()
        shared = Shared(platform=platform, organization=OrganizationLimits(concurrency=organization))
        both.do(lambda record: record.gateway.publish_limits(shared))
        both.do(lambda record: record.registry.publish_template(replace(TEMPLATE, limits=of_all)))
        both.do(lambda record: record.registry.publish_credential(replace(CREDENTIAL, limits=key)))
        history = History(both)
        for uid in INSTANCES:
            history.publish(uid, limits)
        for step in steps:
            history.do(*step)
            history.check(shared)

    hold_to_the_same()


def _names(reply) -> list[tuple[str, int]]:
    return [(held.run, held.attempt) for held in reply.assignments]
