"""Whatever happens in whatever order, the twin in memory and PostgreSQL come to the same."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.support.machines import on_a_database, try_whatever_comes
from tests.support.postgres import Databases
from tests.support.record import (
    INSTANCE,
    LEASE_SECONDS,
    Harness,
    hold,
    memory_harness,
    seat,
    step,
    wish,
)

from everesthood.apis.wire import (
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    LogLine,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.run_ids import uuid7
from everesthood.domain.runs import FINAL, Dedupe, Run, RunId, RunRetry, RunState
from everesthood.domain.schedules import Missed, Overlap, Schedule
from everesthood.usecases.ports.record import Accepted, RunFilter
from everesthood.usecases.ports.registry import PublishedInstance

pytestmark = pytest.mark.contract
_START = datetime(2026, 1, 1, tzinfo=UTC)
_TABLES = ("instance", "run", "run_label", "step", "run_log", "idempotency", "audit", "schedule")
_IDS = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SIMPLE = Dedupe(key="one")
REVISIONS = st.sampled_from(["r1", "r2"])
DEDUPES = [
    None,
    None,
    SIMPLE,
    Dedupe(key="k"),
    Dedupe(key="k", mode="throttle", seconds=58),
    Dedupe(key="k", mode="debounce", seconds=7),
]
OUTCOMES = st.sampled_from(["succeeded", "failed", "ambiguous", "cancelled", "released"])


class RecordMachine(RuleBasedStateMachine):
    """Does everything twice and compares."""

    postgres: Harness
    runner: asyncio.Runner

    def do(self, act) -> object:
        """Do it on both; the answers are the same, errors included."""

        twin, real = self.both(act)
        assert self.plain(twin) == self.plain(real)
        return real

    def both(self, act) -> list[object]:
        """Return the answer of the twin and that of PostgreSQL."""

        async def ask() -> list[object]:
            answers = []
            for record in (self.memory, self.postgres):
                try:
                    answers.append(await act(record))
                except EveresthoodError as error:
                    answers.append((type(error), error.reason))
            return answers

        return self.runner.run(ask())

    def plain(self, answer: object) -> object:
        """Return an answer without the times, and with the same name for a schedule's run on both."""
        return _named(_plain(answer), self.names)

    @initialize()
    def start(self) -> None:
        self.memory = memory_harness()
        self.count = 0
        self.aged = 0
        self.generation = 1
        self.instance = INSTANCE
        self.given: list[tuple[Assignment, Assignment]] = []
        """What the twin handed out, and what PostgreSQL did."""
        self.final: dict[str, object] = {}
        self.names: dict[str, str] = {}
        """Ids of schedules' runs, which are made by chance, and what to call them."""
        self.fences: dict[str, int] = {}
        self.states: dict[str, RunState] = {}
        self.simple: set[str] = set()
        self.runner.run(self._wipe())
        self.do(lambda record: record.registry.publish_instance(INSTANCE))

    async def _wipe(self) -> None:
        assert self.postgres.database is not None
        async with self.postgres.database.acquire() as connection:
            await connection.execute(";".join(f"delete from {table}" for table in _TABLES))

    def _run(self, number: int) -> RunId:
        moment = _START + timedelta(seconds=number)
        return RunId(str(uuid7(now=moment, randomness=b"\0" * 10)))

    def _one(self, number: int) -> tuple[Assignment, Assignment] | None:
        return self.given[number % len(self.given)] if self.given else None

    def _of(self, record: Harness, pair: tuple[Assignment, Assignment]) -> Assignment:
        return pair[record is self.postgres]

    @rule(
        key=st.none() | st.sampled_from("ab"),
        digest=st.sampled_from([b"x", b"y"]),
        most=st.integers(1, 3),
        failures=st.integers(1, 3),
        priority=st.sampled_from([0, 0, 9]),
        ttl=st.sampled_from([None, None, 8]),
        dedupe=st.sampled_from(DEDUPES),
        replays=st.booleans(),
    )
    def accept(self, key, digest, *, most, failures, priority, ttl, dedupe, replays) -> None:
        self.count += 1
        request = wish(
            id=self._run(self.count),
            idempotency_key=key,
            request_digest=digest,
            max_attempts=most,
            max_run_seconds=100,
            retry=RunRetry(max_attempts=failures, initial_seconds=0),  # no spread: both wait equally long
            priority=priority,
            ttl_seconds=ttl,
            dedupe=dedupe,
            replay_of=next((RunId(run) for run in self.final if _IDS.fullmatch(run)), None)
            if replays
            else None,
        )
        accepted = self.do(lambda record: record.runs.accept(request))
        if dedupe is SIMPLE and key is None and isinstance(accepted, Accepted):
            self.simple.add(accepted.run)

    @rule(want=st.sampled_from([1, 2, 100]), revision=REVISIONS)
    def claim(self, want, revision) -> None:
        twin, real = self.both(lambda record: record.work.work(seat(revision), WorkRequest(want=want)))
        assert self.plain(twin) == self.plain(real)
        for pair in zip(twin.assignments, real.assignments, strict=True):
            run = self.names.get(pair[1].run, pair[1].run)
            assert self.states.get(run, RunState.QUEUED) is RunState.QUEUED, "it has a holder, or is over"
            assert pair[1].fence == self.fences.get(run, 0) + 1
            self.states[run] = RunState.RUNNING
            self.given.append(pair)

    @rule(
        number=st.integers(0, 30),
        outcome=OUTCOMES,
        reason=st.sampled_from(["", "RunTimedOut", "x"]),
        transient=st.booleans(),
        wait=st.sampled_from([None, 17.0]),
    )
    def hand_in(self, number, outcome, reason, transient, wait) -> None:
        if (pair := self._one(number)) is not None:

            def end(held: Assignment) -> Finish:
                return Finish(
                    run=held.run,
                    fence=held.fence,
                    outcome=outcome,
                    reason=reason,
                    steps=(step("z"),),
                    transient=transient,
                    retry_after_seconds=wait,
                )

            def call(record: Harness) -> WorkRequest:
                return WorkRequest(finished=(end(self._of(record, pair)),))

            reply = self.do(lambda record: record.work.work(seat(), call(record)))
            if outcome == "released" and not reply.lost:
                self._was_released(pair[1])

    def _was_released(self, held: Assignment) -> None:
        """A run that a worker hands back has as many attempts left as before."""
        run = self.runner.run(self.postgres.run(held.run))
        assert run.attempt == held.attempt - (run.state is RunState.QUEUED)

    @rule(number=st.integers(0, 30), name=st.sampled_from("ab"), state=st.sampled_from(["started", "failed"]))
    def checkpoint(self, number, name, state) -> None:
        if (pair := self._one(number)) is not None:

            def call(record: Harness) -> WorkRequest:
                held = self._of(record, pair)
                line = LogLine(run=held.run, fence=held.fence, at=1.0, level="info", message=name)
                done = Checkpoint(run=held.run, fence=held.fence, steps=(step(name, state),))
                return WorkRequest(checkpoints=(done,), logs=(line,))

            self.do(lambda record: record.work.work(seat(), call(record)))

    @rule()
    def heartbeat(self) -> None:
        if self.given:
            newest = self.given[-5:]

            def request(record: Harness) -> HeartbeatRequest:
                return HeartbeatRequest(held=tuple(hold(self._of(record, pair)) for pair in newest))

            self.do(lambda record: record.work.heartbeat(seat(), request(record)))

    @rule(number=st.integers(1, 30))
    def cancel(self, number) -> None:
        self.do(lambda record: record.runs.cancel("acme", self._run(number), "bob", "r"))

    @rule(seconds=st.sampled_from([5, LEASE_SECONDS + 1, 101]))
    def age(self, seconds) -> None:
        self.do(lambda record: record.age(seconds))
        self.aged += seconds

    @rule()
    def rescue(self) -> None:
        self.do(lambda record: record.clock.rescue())

    @rule(revision=REVISIONS, suspended=st.booleans())
    def publish(self, revision, suspended) -> None:
        self.generation += 1
        self.instance = replace(
            INSTANCE, generation=self.generation, current_revision=revision, suspended=suspended
        )
        self.do(lambda record: record.registry.publish_instance(self.instance))

    @rule(overlap=st.sampled_from(Overlap), comes=st.sampled_from([True, True, False]))
    def plan(self, overlap, comes) -> None:
        """Give the instance a time, which comes; the twin's clock has gone on by what PostgreSQL's rows have aged."""
        self.generation += 1
        now = datetime.now(UTC) + timedelta(seconds=4)

        def planned(record: Harness) -> PublishedInstance:
            at = now + timedelta(seconds=self.aged if record is self.memory else 0)
            schedule = Schedule(
                name="tick", cron=None, at=at, time_zone="Etc/UTC", overlap=overlap, missed=Missed.LATEST,
                max_missed=1, jitter_seconds=0, suspended=False, input=b"{}",
            )  # fmt: skip
            return replace(self.instance, generation=self.generation, schedules=(schedule,))

        self.do(lambda record: record.registry.publish_instance(planned(record)))
        if comes:
            self.age(5)
            self.fire()

    @rule()
    def fire(self) -> None:
        self.do(lambda record: record.clock.fire_schedules(10))
        for runs in self.both(lambda record: record.listed(RunFilter(namespace="acme", limit=1000))):
            ticks = sorted(run.id for run in runs if run.schedule)
            self.names |= {run: f"tick {n}" for n, run in enumerate(ticks)}

    @rule()
    def release_held(self) -> None:
        self.do(lambda record: record.clock.release_held(10))

    @rule()
    def look(self) -> None:
        self.do(_bells)
        self.do(_audited)
        self.do(lambda record: record.registry.queue_state("uid-a"))
        for number in range(1, self.count + 1):
            self.do(lambda record, n=number: record.runs.steps(self._run(n)))

    @invariant()
    def the_same_and_final_stays_final(self) -> None:
        """No run leaves a final state, runs more often than it may, or has a fence that goes back; none is doubled."""
        twin, real = self.both(lambda record: record.listed(RunFilter(namespace="acme", limit=1000)))
        assert sorted(self.plain(twin), key=_id) == sorted(self.plain(real), key=_id)
        open_ones: Counter[str] = Counter()
        for run in real:
            name = self.names.get(run.id, run.id)
            assert run.attempt - run.failures <= 3 or run.schedule
            assert run.failures <= 3 or run.schedule
            assert run.fence >= self.fences.get(name, 0)
            assert run.attempt <= run.fence
            self.fences[name], self.states[name] = run.fence, run.state
            if name in self.final:
                assert (run.state, run.reason, run.finished_at is None) == self.final[name]
            elif run.state in FINAL:
                self.final[name] = (run.state, run.reason, run.finished_at is None)
            elif run.id in self.simple:
                open_ones[SIMPLE.key] += 1
        assert open_ones[SIMPLE.key] <= 1


async def _audited(record: Harness) -> list[tuple[str, str, str]]:
    return sorted(await record.audited())


def _id(run: Run) -> str:
    return run.id


def _named(answer: object, names: dict[str, str]) -> object:
    """Return an answer in which runs with a name have it in place of their id."""
    match answer:
        case str():
            return _IDS.sub(lambda found: names.get(found[0], found[0]), answer)
        case list() | tuple():
            return [_named(one, names) for one in answer]
        case Run():
            return replace(
                answer, id=RunId(names.get(answer.id, answer.id)), fire_at=None,
                request_id="" if answer.schedule else answer.request_id,
            )  # fmt: skip
        case _:
            return answer


async def _bells(record: Harness) -> list[tuple[str, str]]:
    return sorted((bell.instance_uid, bell.revision) for bell in await record.clock.due_bells(2))


def _plain(answer: object) -> object:
    """Return an answer without the times, which differ between two clocks."""
    match answer:
        case list() | tuple():
            plain: object = [_plain(one) for one in answer]
        case HeartbeatReply():
            plain = [answer.lost, answer.cancel]
        case WorkReply():
            plain = [_plain(answer.assignments), answer.lost]
        case Assignment():
            plain = (answer.run, answer.fence, answer.attempt, bytes(answer.input), _names(answer.steps))
        case Run():
            plain = replace(
                answer,
                created_at=_START,
                started_at=None,
                finished_at=None,
                due_at=answer.due_at and _START,
                expires_at=None,
            )
        case _:
            plain = answer
    return plain


def _names(steps) -> list[tuple[str, str]]:
    return [(one.name, one.state) for one in steps]


@pytest.fixture
def machine(databases: Databases) -> Iterator[type[RecordMachine]]:
    """Yield the machine on a database of its own."""
    with on_a_database(RecordMachine, databases) as bound:
        yield bound


def test_schedules_and_replays_leave_the_twins_alike(machine: type[RecordMachine]):
    """Whatever comes in whatever order, both records answer alike, and what must always hold of a run holds."""
    try_whatever_comes(machine, 60)
