"""Workers over the record: leases, fences, checkpoints and the scheduler's rescue, end to end."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.record import INSTANCE, Harness, memory_harness, seat
from tests.support.worker import FakeGateway, Figures, Serving, agent, doing, executing, raw, step

from everesthood.apis.wire import (
    Assignment,
    Finish,
    HeartbeatReply,
    HeartbeatRequest,
    OutputsReply,
    OutputsRequest,
    StepRecord,
)
from everesthood.domain.approvals import Decision
from everesthood.domain.doubts import Resolution
from everesthood.domain.runs import RunState
from everesthood.usecases import work
from everesthood.usecases.await_cancellation import await_cancellation
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.work_loop import Worker

pytestmark = pytest.mark.integration


class Bells:
    """Forgets bells."""

    async def ring(self, instance_uid: str, revision: str) -> None: ...

    async def settle(self, instance_uid: str, revision: str) -> None: ...


class RecordGateway(FakeGateway):
    """The gateway's use cases, called without HTTP."""

    def __init__(self, record: Harness, pod: str = "pod-1") -> None:
        super().__init__()
        self._record = record
        self._seat = seat(pod=pod)
        self.fetched = 0

    async def work(self, request: Any) -> Any:
        await asyncio.sleep(0)
        return await work.work(store=self._record.work, bell=Bells(), seat=self._seat, request=request)

    async def watch(self) -> bool:
        self.watches += 1
        return (await await_cancellation(self._record.cancellations, self._seat)).changed

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatReply:
        return await work.heartbeat(store=self._record.work, seat=self._seat, request=request)

    async def outputs(self, request: OutputsRequest) -> OutputsReply:
        self.fetched += 1
        return await work.outputs(store=self._record.work, seat=self._seat, request=request)


@pytest.fixture
async def record() -> Harness:
    made = memory_harness()
    await made.registry.publish_instance(INSTANCE)
    return made


async def until_state(record: Harness, runs: list[str], state: RunState) -> None:
    async with asyncio.timeout(10):
        for run in runs:
            while (await record.run(run)).state is not state:
                await asyncio.sleep(0.005)


GREETING = agent(
    step("greet", value="'Hello, ' + input.who"), step("shout", "greet", value="steps.greet + '!'")
)


async def test_accepted_runs_are_executed_to_their_output(record: Harness) -> None:
    """A hundred accepted runs succeed, with both steps in the record."""
    runs = [(await record.accept()).run for _ in range(100)]
    async with Serving(RecordGateway(record), executing(GREETING)):
        await until_state(record, list(runs), RunState.SUCCEEDED)

    assert msgspec.json.decode((await record.run(runs[0])).output or b"") == "Hello, World!"
    steps = await record.runs.steps(runs[0])
    assert [(s.name, s.state) for s in steps] == [("greet", "succeeded"), ("shout", "succeeded")]


async def test_two_workers_share_the_work_and_double_none(record: Harness) -> None:
    """Each run is executed by one of them, once."""
    runs = [(await record.accept()).run for _ in range(60)]
    seen: list[str] = []
    act = executing(GREETING)

    async def counted(given: Assignment, journal: Any) -> Finish:
        seen.append(given.run)
        return await act(given, journal)

    async with (
        Serving(RecordGateway(record, "pod-1"), counted, slots=5),
        Serving(RecordGateway(record, "pod-2"), counted, slots=5),
    ):
        await until_state(record, list(runs), RunState.SUCCEEDED)

    assert sorted(seen) == sorted(runs)


async def test_a_killed_workers_run_goes_on_where_it_was(record: Harness) -> None:
    """After the lease runs out and the scheduler rescues, another worker does only the second step."""
    run = (await record.accept()).run
    reached = asyncio.Event()

    async def dies(given: Assignment, journal: Any) -> Finish:
        await journal.commit(StepRecord(name="greet", state="succeeded", output=raw("Kept")))
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    dead = Worker(gateway=RecordGateway(record), execute=dies, slots=1, figures=Figures())
    serving = asyncio.create_task(dead.serve())
    await reached.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await record.age(31)
    await record.clock.rescue()
    async with Serving(RecordGateway(record, "pod-2"), executing(GREETING)):
        await until_state(record, [run], RunState.SUCCEEDED)

    done = await record.run(run)
    assert msgspec.json.decode(done.output or b"") == "Kept!"
    assert done.attempt == 2


async def test_a_resumed_run_has_its_large_outputs_again(record: Harness) -> None:
    """What a claim holds back is fetched before the first step that could look at it."""
    run = (await record.accept()).run
    large = "x" * 200_000
    reached = asyncio.Event()

    async def dies(given: Assignment, journal: Any) -> Finish:
        await journal.commit(StepRecord(name="greet", state="succeeded", output=raw(large)))
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    dead = Worker(gateway=RecordGateway(record), execute=dies, slots=1, figures=Figures())
    serving = asyncio.create_task(dead.serve())
    await reached.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await record.age(31)
    await record.clock.rescue()
    gateway = RecordGateway(record, "pod-2")
    async with Serving(gateway, executing(GREETING)):
        await until_state(record, [run], RunState.SUCCEEDED)

    assert msgspec.json.decode((await record.run(run)).output or b"") == large + "!"
    assert gateway.fetched == 1


async def test_a_payment_under_a_killed_worker_waits_for_a_person(record: Harness) -> None:
    """The next attempt finds the payment started and ends as ambiguous, without paying."""
    run = (await record.accept()).run
    what = agent(step("pay", http={"url": "https://bank.example/", "method": "POST"}))
    begun = asyncio.Event()

    class Hangs:
        async def send(self, _: object) -> Any:
            begun.set()
            await asyncio.Event().wait()

    dead = Worker(
        gateway=RecordGateway(record), execute=executing(what, doing(Hangs())), slots=1, figures=Figures()
    )
    serving = asyncio.create_task(dead.serve())
    await begun.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await record.age(31)
    await record.clock.rescue()
    async with Serving(RecordGateway(record, "pod-2"), executing(what)):
        await until_state(record, [run], RunState.AMBIGUOUS)

    assert (await record.run(run)).message.startswith("steps.pay: ")


async def test_a_stopping_worker_hands_its_runs_to_the_next_without_burning_an_attempt(
    record: Harness,
) -> None:
    """Released runs are due at once, keep their checkpoints and their count of attempts."""
    run = (await record.accept()).run
    begun = asyncio.Event()
    by = doing()

    class Slow:
        """Does the first step and hangs in the second."""

        async def run(self, scope: Any) -> object:
            if scope.step.name == "shout":
                begun.set()
                await asyncio.Event().wait()
            return await by.runner.run(scope)

    hanging = Doing(runner=Slow(), expressions=by.expressions, figures=by.figures)
    async with Serving(RecordGateway(record), executing(GREETING, hanging)) as worker:
        await begun.wait()
        await worker.stop(0.01)
    between = await record.run(run)
    async with Serving(RecordGateway(record, "pod-2"), executing(GREETING)):
        await until_state(record, [run], RunState.SUCCEEDED)

    assert (between.state, between.attempt) == (RunState.QUEUED, 0)
    assert (await record.run(run)).attempt == 1
    attempts = {s.name: s.attempt for s in await record.runs.steps(run)}
    assert attempts.keys() == {"greet", "shout"}


async def test_a_cancelled_run_ends_as_cancelled(record: Harness) -> None:
    """Cancelling a running run stops its worker at once, long before the next heartbeat."""
    run = (await record.accept()).run
    begun = asyncio.Event()

    async def hangs(_given: Assignment, _journal: Any) -> Finish:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    gateway = RecordGateway(record)
    serving = Serving(gateway, hangs)
    async with serving, asyncio.timeout(2):
        await begun.wait()
        await gateway.until(lambda: gateway.watches == 1)
        await record.runs.cancel("acme", run, "alice", "req-2")
        await until_state(record, [run], RunState.CANCELLED)

    assert serving.figures.outcomes == {"cancelled": 1}


async def test_a_run_that_waits_for_a_person_outlives_its_worker(record: Harness) -> None:
    """It holds no slot while it waits; another worker goes on behind the answer, and asks nothing again."""
    what = agent(
        step("greet", value="'Hello, ' + input.who"),
        step("ask", "greet", approval={"message": "Say {{ steps.greet }}?"}),
        step("say", "ask", value="steps.greet + ', says ' + steps.ask.by"),
    )
    run = (await record.accept()).run
    async with Serving(RecordGateway(record), executing(what), slots=1):
        await until_state(record, [run], RunState.WAITING)
        other = (await record.accept()).run
        await until_state(record, [other], RunState.WAITING)
    asked = (await record.run(run)).approvals

    async with Serving(RecordGateway(record, "pod-2"), executing(what)):
        await record.control.decide(
            Decision(namespace="acme", run=run, step="ask", approved=True, actor="bob")
        )
        await until_state(record, [run], RunState.SUCCEEDED)

    done = await record.run(run)
    assert [one.message for one in asked] == ["Say Hello, World?"]
    assert msgspec.json.decode(done.output or b"") == "Hello, World, says bob"
    assert done.attempt == 1
    assert (await record.run(other)).state is RunState.WAITING


async def test_a_payment_in_doubt_is_resolved_and_the_run_goes_on(record: Harness) -> None:
    """A person looked and it was paid: the next step sees the output that they gave, and nothing is paid."""
    what = agent(
        step("pay", http={"url": "https://bank.example/", "method": "POST"}),
        step("tell", "pay", value="steps.pay.body"),
    )
    run = (await record.accept()).run
    (held,) = await record.claim()
    begun = StepRecord(name="pay", state="started", started_at=1.0)
    await record.hand_in(Finish(run=held.run, fence=held.fence, outcome="ambiguous", steps=(begun,)))

    said = Resolution(
        namespace="acme", run=run, answer="done", actor="ada", output=b'{"status":201,"body":"paid"}'
    )
    await record.control.resolve(said)
    async with Serving(RecordGateway(record), executing(what)):
        await until_state(record, [run], RunState.SUCCEEDED)

    assert msgspec.json.decode((await record.run(run)).output or b"") == "paid"


async def test_a_paused_queue_is_drained_by_its_workers(record: Harness) -> None:
    """What runs comes to its end, what waits begins after the resume."""
    first = (await record.accept()).run
    begun, opened = asyncio.Event(), asyncio.Event()
    act = executing(GREETING)

    async def slow(given: Assignment, journal: Any) -> Finish:
        begun.set()
        await opened.wait()
        return await act(given, journal)

    gateway = RecordGateway(record)
    async with Serving(gateway, slow) as worker:
        await begun.wait()
        await record.control.pause("acme", "greeter", Actor(name="ada"))
        second = (await record.accept()).run
        worker.wake()
        opened.set()
        await until_state(record, [first], RunState.SUCCEEDED)
        (queue,) = await record.control.queues("acme")
        await record.control.resume("acme", "greeter", Actor(name="ada"))
        worker.wake()
        await until_state(record, [second], RunState.SUCCEEDED)

    assert (queue.running, queue.due) == (0, 1)
