"""Whatever happens in whatever order, the twin in memory and PostgreSQL come to the same."""

import asyncio
import json
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
    Ask,
    Assignment,
    Checkpoint,
    Finish,
    HeartbeatRequest,
    WorkReply,
    WorkRequest,
)
from everesthood.domain.approvals import Decision
from everesthood.domain.doubts import Resolution
from everesthood.domain.errors import EveresthoodError
from everesthood.domain.queues import Pause, QueueView, Stop
from everesthood.domain.run_ids import uuid7
from everesthood.domain.runs import FINAL, Dedupe, Run, RunId, RunRetry, RunState
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.ports.record import RunFilter, StoredStep
from everesthood.usecases.ports.registry import QueueState

pytestmark = pytest.mark.contract
_START = datetime(2026, 1, 1, tzinfo=UTC)
_TABLES = (
    "instance",
    "run",
    "run_label",
    "step",
    "run_log",
    "idempotency",
    "audit",
    "run_limit",
    "kept_back",
    "approval",
    "stopped_organization",
)
REVISIONS = st.sampled_from(["r1", "r2"])
DEDUPES = [
    None,
    None,
    Dedupe(key="k"),
    Dedupe(key="k", mode="throttle", seconds=58),
    Dedupe(key="k", mode="debounce", seconds=7),
]
OUTCOMES = st.sampled_from(
    ["succeeded", "failed", "ambiguous", "cancelled", "released", "waiting", "waiting"]
)
ASKS = st.sampled_from([("q",), ("q", "r"), ("r",)])


class RecordMachine(RuleBasedStateMachine):
    """Does everything twice and compares."""

    postgres: Harness
    runner: asyncio.Runner

    def do(self, act) -> object:
        """Do it on both; the answers are the same, errors included."""

        async def both() -> list[object]:
            answers = []
            for record in (self.memory, self.postgres):
                try:
                    answers.append(await act(record))
                except EveresthoodError as error:
                    answers.append((type(error), error.reason))
            return answers

        twin, real = self.runner.run(both())
        assert _plain(twin) == _plain(real)
        return real

    @initialize()
    def start(self) -> None:
        self.memory = memory_harness()
        self.count = 0
        self.generation = 1
        self.instance = INSTANCE
        self.given: list[Assignment] = []
        self.final: dict[str, object] = {}
        self.runner.run(self._wipe())
        self.do(lambda record: record.registry.publish_instance(INSTANCE))

    async def _wipe(self) -> None:
        assert self.postgres.database is not None
        async with self.postgres.database.acquire() as connection:
            await connection.execute(";".join(f"delete from {table}" for table in _TABLES))

    def _run(self, number: int) -> RunId:
        moment = _START + timedelta(seconds=number)
        return RunId(str(uuid7(now=moment, randomness=b"\0" * 10)))

    def _one(self, number: int) -> Assignment | None:
        return self.given[number % len(self.given)] if self.given else None

    @rule(
        key=st.none() | st.sampled_from("ab"),
        digest=st.sampled_from([b"x", b"y"]),
        most=st.integers(1, 3),
        failures=st.integers(1, 3),
        priority=st.sampled_from([0, 0, 9]),
        ttl=st.sampled_from([None, None, 8]),
        dedupe=st.sampled_from(DEDUPES),
    )
    def accept(self, key, digest, *, most, failures, priority, ttl, dedupe) -> None:
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
        )
        self.do(lambda record: record.runs.accept(request))

    @rule(want=st.sampled_from([1, 2, 100]), revision=REVISIONS)
    def claim(self, want, revision) -> None:
        reply = self.do(lambda record: record.work.work(seat(revision), WorkRequest(want=want)))
        self.given += reply.assignments

    @rule(
        number=st.integers(0, 30),
        outcome=OUTCOMES,
        reason=st.sampled_from(["", "RunTimedOut", "x"]),
        transient=st.booleans(),
        wait=st.sampled_from([None, 17.0]),
        asks=ASKS,
        on_reject=st.sampled_from(["Fail", "Continue"]),
    )
    def hand_in(self, number, outcome, reason, *, transient, wait, asks, on_reject) -> None:
        if (held := self._one(number)) is not None:
            questions = tuple(
                Ask(step=name, message="?", deadline_seconds=50, on_reject=on_reject) for name in asks
            )
            end = Finish(
                run=held.run,
                fence=held.fence,
                outcome=outcome,
                reason=reason,
                steps=(step("z"),),
                transient=transient,
                retry_after_seconds=wait,
                asks=questions if outcome == "waiting" else (),
            )
            self.do(lambda record: record.work.work(seat(), WorkRequest(finished=(end,))))

    @rule(number=st.integers(1, 30), name=st.sampled_from("qr"), approved=st.booleans())
    def decide(self, number, name, approved) -> None:
        said = Decision(
            namespace="acme", run=self._run(number), step=name, approved=approved, actor="bob", comment="c"
        )
        self.do(lambda record: record.control.decide(said))

    @rule()
    def expire(self) -> None:
        self.do(lambda record: record.clock.expire_approvals())

    @rule(
        number=st.integers(1, 30),
        answer=st.sampled_from(["done", "repeat", "giveUp"]),
        name=st.sampled_from([None, "a", "b"]),
    )
    def resolve(self, number, answer, name) -> None:
        run = self._run(number)
        said = Resolution(namespace="acme", run=run, answer=answer, actor="ada", step=name)
        self.do(lambda record: record.control.resolve(said))
        if self.final.get(run, ("",))[0] is RunState.AMBIGUOUS:
            del self.final[run]

    @rule(paused=st.booleans())
    def pause(self, paused) -> None:
        ada = Actor(name="ada")
        if paused:
            self.do(lambda record: record.control.pause("acme", "greeter", ada))
        else:
            self.do(lambda record: record.control.resume("acme", "greeter", ada))

    @rule(stopped=st.booleans(), cancels=st.booleans())
    def stop(self, stopped, cancels) -> None:
        ada = Actor(name="ada")
        if stopped:
            self.do(lambda record: record.control.stop("acme", ada, message="m", cancels=cancels))
            self.do(lambda record: record.clock.cancel_stopped())
        else:
            self.do(lambda record: record.control.start("acme", ada))

    @rule(number=st.integers(0, 30), name=st.sampled_from("ab"), state=st.sampled_from(["started", "failed"]))
    def checkpoint(self, number, name, state) -> None:
        if (held := self._one(number)) is not None:
            done = Checkpoint(run=held.run, fence=held.fence, steps=(step(name, state),))
            self.do(lambda record: record.work.work(seat(), WorkRequest(checkpoints=(done,))))

    @rule()
    def heartbeat(self) -> None:
        if self.given:
            request = HeartbeatRequest(held=tuple(hold(held) for held in self.given[-5:]))
            self.do(lambda record: record.work.heartbeat(seat(), request))

    @rule(number=st.integers(1, 30))
    def cancel(self, number) -> None:
        self.do(lambda record: record.runs.cancel("acme", self._run(number), "bob", "r"))

    @rule(seconds=st.sampled_from([5, LEASE_SECONDS + 1, 101]))
    def age(self, seconds) -> None:
        self.do(lambda record: record.age(seconds))

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

    @rule()
    def look(self) -> None:
        self.do(_bells)
        self.do(lambda record: record.registry.queue_state("uid-a"))
        self.do(lambda record: record.control.queues("acme"))
        for number in range(1, self.count + 1):
            self.do(lambda record, n=number: record.runs.steps(self._run(n)))

    @invariant()
    def the_same_and_final_stays_final(self) -> None:
        """No run ever leaves a final state, and none runs more often than it may."""
        runs = self.do(lambda record: record.listed(RunFilter(namespace="acme", limit=1000)))
        for run in runs:
            assert run.attempt - run.failures <= 3
            assert run.failures <= 3
            if run.id in self.final:
                assert (run.state, run.reason, run.finished_at is None) == self.final[run.id]
            elif run.state in FINAL:
                self.final[run.id] = (run.state, run.reason, run.finished_at is None)


async def _bells(record: Harness) -> list[tuple[str, str]]:
    return sorted((bell.instance_uid, bell.revision) for bell in await record.clock.due_bells(2))


def _plain(answer: object) -> object:
    """Return an answer without the times, which differ between two clocks."""
    match answer:
        case list() | tuple():
            plain: object = [_plain(one) for one in answer]
        case WorkReply():
            plain = [_plain(answer.assignments), answer.lost]
        case Assignment():
            plain = (answer.run, answer.fence, answer.attempt, bytes(answer.input), _names(answer.steps))
        case Run():
            asked = tuple(replace(one, asked_at=_START, deadline_at=_START) for one in answer.approvals)
            plain = replace(
                answer, created_at=_START, started_at=None, finished_at=None, due_at=None, expires_at=None,
                approvals=asked, message="stopped" if "stopped by" in answer.message else answer.message,
            )  # fmt: skip
        case QueueView() | QueueState():
            plain = replace(answer, pause=_plain(answer.pause), stop=_plain(answer.stop))
            if isinstance(plain, QueueView):
                plain = replace(plain, oldest_due_at=None)
        case Pause() | Stop():
            plain = replace(answer, at=_START)
        case StoredStep():
            plain = replace(answer, output=_untimed(answer.output), started_at=None, finished_at=None)
        case _:
            plain = answer
    return plain


def _untimed(output: bytes) -> object:
    """Return an output without the time of a decision."""
    value = json.loads(output)
    return {**value, "at": None} if isinstance(value, dict) else value


def _names(steps) -> list[tuple[str, str]]:
    return [(one.name, one.state) for one in steps]


@pytest.fixture
def machine(databases: Databases) -> Iterator[type[RecordMachine]]:
    """Yield the machine on a database of its own."""
    with on_a_database(RecordMachine, databases) as bound:
        yield bound


def test_decisions_and_pauses_leave_the_twins_alike(machine: type[RecordMachine]):
    """Whatever people and workers do in whatever order, both records answer and end alike."""
    try_whatever_comes(machine, 40)
