"""A worker at work, with a gateway in memory."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.support.worker import (
    FakeGateway,
    Figures,
    Serving,
    agent,
    assignment,
    executing,
    raw,
    step,
)

from everesthood.apis.wire import Assignment, Finish, StepRecord
from everesthood.domain.errors import Forbidden, StepFailed, Unavailable
from everesthood.usecases.held_runs import HeldRuns
from everesthood.usecases.outbox import MAX_FINISHES
from everesthood.usecases.work_loop import Worker

ACT = executing(agent(step("a", value="input")))
Act = Callable[[Assignment, Any], Awaitable[Finish]]


def succeeded(given: Assignment) -> Finish:
    return Finish(run=given.run, fence=given.fence, outcome="succeeded", output=given.input)


def gate() -> tuple[Act, asyncio.Event, list[str]]:
    """Return an executor that waits for an event, the event, and the runs that began."""
    opened, begun = asyncio.Event(), []

    async def act(given: Assignment, _: Any) -> Finish:
        begun.append(given.run)
        await opened.wait()
        return succeeded(given)

    return act, opened, begun


async def test_every_run_is_executed_and_handed_in_once() -> None:
    """Five hundred runs: each claimed once, finished once, with its output."""
    gateway = FakeGateway()
    names = gateway.add(500, {"n": 1})

    async with Serving(gateway, ACT, slots=20):
        await gateway.until_over()

    assert [gateway.rows[n].finish.output for n in names] == [raw({"n": 1})] * 500  # type: ignore[union-attr]
    handed_in = [f.run for request in gateway.requests for f in request.finished]
    assert sorted(handed_in) == sorted(names)


async def test_no_more_runs_execute_than_there_are_slots() -> None:
    """Slots bound what executes; what is claimed ahead waits."""
    gateway, running, most = FakeGateway(), 0, 0

    async def act(given: Assignment, _: Any) -> Finish:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return succeeded(given)

    gateway.add(200)
    async with Serving(gateway, act, slots=10):
        await gateway.until_over()

    assert most == 10
    assert max(request.want for request in gateway.requests) <= 20


async def test_only_one_call_is_in_flight_and_results_ride_on_it() -> None:
    """What completes during a call goes with the next one, together."""
    gateway = FakeGateway()
    gateway.add(100)
    in_flight, most = 0, 0
    work = gateway.work

    async def counted(request: Any) -> Any:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.005)
        in_flight -= 1
        return await work(request)

    gateway.work = counted  # type: ignore[method-assign]
    async with Serving(gateway, ACT, slots=50):
        await gateway.until_over()

    carrying = [r for r in gateway.requests if r.finished]
    assert most == 1
    assert len(carrying) <= 6


def held_after(run_seconds: float, trip_seconds: float) -> HeldRuns:
    """Return ten slots, of which one has ended a run of that length, brought by a call of that length."""
    held = HeldRuns(slots=10)
    held.add([assignment()], asked_at=1000.0, now=1000.0 + trip_seconds)
    started = held.next_to_start()
    assert started is not None
    held.ended(started, run_seconds)
    return held


@pytest.mark.parametrize(
    ("run_seconds", "trip_seconds", "ahead"),
    [(0.1, 0.02, 4), (0.1, 0.1, 10), (0.001, 0.02, 10), (0.9, 0.02, 1), (1.1, 0.02, 0)],
)
def test_as_much_is_claimed_ahead_as_ends_while_the_gateway_is_asked(
    run_seconds: float, trip_seconds: float, ahead: int
) -> None:
    """Short runs leave no slot empty while a call is under way; long ones are left to workers with a slot."""
    assert HeldRuns(slots=10).want == 10
    assert held_after(run_seconds, trip_seconds).want == 10 + ahead


def test_what_waits_behind_runs_that_turn_out_long_is_left_to_other_workers() -> None:
    """A run claimed ahead waits for a slot as long as a short run takes, and nothing is claimed ahead then."""
    held = held_after(0.1, 0.1)
    held.add([assignment(f"r{n}") for n in range(held.want)], asked_at=1000.0, now=1000.1)
    while held.next_to_start() is not None:
        pass

    assert held.stranded(1001.0) == []
    stranded = held.stranded(1001.2)
    assert [held.forget_waiting(one) for one in stranded] == [True] * 10
    assert held.want == 0


async def test_a_bell_from_another_thread_brings_work_at_once() -> None:
    """After the worker has gone to wait, a ring makes it claim without delay."""
    gateway = FakeGateway()
    async with Serving(gateway, ACT) as worker:
        await gateway.until(lambda: any(r.settle_bell for r in gateway.requests))
        gateway.add(1)
        calls = len(gateway.requests)
        threading.Thread(target=worker.wake).start()
        await gateway.until_over(seconds=2)

    assert calls >= 4


async def test_the_bell_is_settled_before_the_last_claim_and_then_it_is_quiet() -> None:
    """About four polls, one call that forgets the bell, then no call at all."""
    gateway = FakeGateway()
    async with Serving(gateway, ACT):
        await gateway.until(lambda: any(r.settle_bell for r in gateway.requests))
        calls = len(gateway.requests)
        await asyncio.sleep(0.2)

        assert len(gateway.requests) == calls
        assert gateway.requests[-1].settle_bell
        assert calls <= 8


async def test_work_that_comes_between_the_last_poll_and_the_settling_is_found() -> None:
    """A run whose bell was swallowed is claimed by the call that forgets the bell."""
    gateway = FakeGateway()
    late: list[str] = []

    def add_late(request: Any) -> None:
        polls = len(gateway.requests)
        if polls >= 3 and not late and not request.settle_bell:
            late.extend(gateway.add(1))

    gateway.after_call = add_late
    async with Serving(gateway, ACT):
        await gateway.until(lambda: bool(late) and gateway.rows[late[0]].finish is not None, seconds=2)

    assert gateway.rows[late[0]].finish.outcome == "succeeded"


async def test_a_run_that_is_due_later_starts_on_time_without_a_bell() -> None:
    """Told at the settling of the bell when the next run is due, an idle worker claims it then."""
    gateway = FakeGateway()
    loop = asyncio.get_running_loop()
    due_at, started = loop.time() + 0.6, []

    def outlook(reply: Any, request: Any) -> Any:
        if not request.settle_bell or gateway.rows:
            return reply
        return msgspec.structs.replace(reply, next_due_in=due_at - loop.time())

    async def act(given: Assignment, _: Any) -> Finish:
        started.append(loop.time())
        return succeeded(given)

    gateway.outlook = outlook
    async with Serving(gateway, act):
        await gateway.until(lambda: any(r.settle_bell for r in gateway.requests))
        quiet = len(gateway.requests)
        loop.call_at(due_at, gateway.add)
        await gateway.until(lambda: bool(started), seconds=5)

    assert started[0] - due_at < 0.1
    assert len([r for r in gateway.requests if r.want]) - quiet <= 8


async def test_a_worker_that_a_limit_keeps_back_asks_again_when_it_may() -> None:
    """One denied call, then none until the time that the limit said, and no attempt burnt."""
    gateway = FakeGateway()
    loop = asyncio.get_running_loop()
    free_at, asked = loop.time() + 0.4, []

    def outlook(reply: Any, request: Any) -> Any:
        if request.want == 0 or loop.time() >= free_at:
            return reply
        asked.append(loop.time())
        return msgspec.structs.replace(reply, next_due_in=free_at - loop.time(), denied="instance")

    gateway.outlook = outlook
    async with Serving(gateway, ACT):
        loop.call_at(free_at, gateway.add)
        await gateway.until(lambda: bool(gateway.rows), seconds=5)
        await gateway.until_over()

    assert len(asked) == 1
    assert gateway.rows["run-1"].attempt == 1


async def test_who_hands_a_run_in_for_later_asks_when_it_is_due() -> None:
    """Nobody rings for a retry, so the worker that handed it in settles its bell once more."""
    gateway = FakeGateway()

    async def act(given: Assignment, _: Any) -> Finish:
        await gateway.until(lambda: any(r.settle_bell for r in gateway.requests))
        return Finish(run=given.run, fence=given.fence, outcome="failed", transient=True)

    gateway.add(1)
    async with Serving(gateway, act, slots=2):
        await gateway.until_over()
        handed_in = next(n for n, r in enumerate(gateway.requests) if r.finished)
        await gateway.until(lambda: any(r.settle_bell for r in gateway.requests[handed_in + 1 :]), seconds=2)

    assert gateway.requests[handed_in].finished[0].transient


async def test_waking_before_and_after_the_worker_lives_does_nothing() -> None:
    """A bell at any moment is harmless."""
    gateway = FakeGateway()
    serving = Serving(gateway, ACT)
    serving.worker.wake()
    async with serving as worker:
        worker.wake()
        gateway.add(1)
        await gateway.until_over()
    worker.wake()

    assert gateway.rows["run-1"].finish.outcome == "succeeded"


async def test_a_finish_survives_a_gateway_that_is_down() -> None:
    """A result is handed in until it arrives."""
    gateway = FakeGateway()
    gateway.add(3)
    act, opened, begun = gate()
    async with Serving(gateway, act):
        await gateway.until(lambda: len(begun) == 3)
        gateway.failures.extend([Unavailable("down"), Forbidden("not yet"), Unavailable("down")])
        opened.set()
        await gateway.until_over()

    assert all(row.finish is not None and row.attempt == 1 for row in gateway.rows.values())


async def test_a_result_that_the_gateway_refuses_does_not_hold_up_the_others() -> None:
    """One odd result in a batch: the others arrive, and its run fails with the reason."""
    gateway = FakeGateway()
    odd = gateway.add(1, "odd")[0]
    gateway.add(5, "fine")
    gateway.refuse = lambda r: (
        "no such text" if any(f.run == odd and bytes(f.output) != b"null" for f in r.finished) else None
    )

    async with Serving(gateway, ACT):
        await gateway.until_over()

    ends = {run: row.finish.outcome for run, row in gateway.rows.items() if row.finish}
    assert ends.pop(odd) == "failed"
    assert gateway.rows[odd].finish.message == "The result was refused: no such text"  # type: ignore[union-attr]
    assert set(ends.values()) == {"succeeded"}


async def test_a_claim_that_the_gateway_refuses_is_tried_again_slowly() -> None:
    """A worker that is told no keeps asking, without a storm."""
    gateway = FakeGateway()
    gateway.refuse = lambda _: "go away"
    async with Serving(gateway, ACT):
        await asyncio.sleep(0.5)
        calls = len(gateway.requests)

    assert 2 <= calls <= 5


async def test_stopping_claims_nothing_more_and_waits_for_what_runs() -> None:
    """Within the grace, running work is finished; nothing new is claimed."""
    gateway = FakeGateway()
    gateway.add(3)
    act, opened, begun = gate()
    async with Serving(gateway, act, slots=2) as worker:
        await gateway.until(lambda: len(begun) == 2)
        stopping = asyncio.create_task(worker.stop(10))
        await asyncio.sleep(0)
        opened.set()
        await stopping

    ends = [row.finish.outcome if row.finish else None for row in gateway.rows.values()]
    assert ends == ["succeeded", "succeeded", None]
    assert gateway.rows["run-3"].attempt == 0


async def test_a_worker_that_is_asked_to_leave_says_what_it_holds_and_works_on() -> None:
    """An offer binds to nothing: until it is taken, the worker claims as ever."""
    gateway = FakeGateway()

    def said() -> int | None:
        return gateway.requests[-1].holds if gateway.requests else None

    gateway.leave = lambda _: "offer"
    gateway.add(3)
    act, opened, _ = gate()
    async with Serving(gateway, act, slots=2) as worker:
        await gateway.until(lambda: said() == 2)
        opened.set()
        await gateway.until_over()
        await gateway.until(lambda: said() == 0)

        assert gateway.requests[0].holds is None
        assert not any(request.leaves for request in gateway.requests)
        assert not worker.leaving.is_set()
        gateway.leave = lambda _: "no"
        worker.wake()
        await gateway.until(lambda: said() is None)


async def test_a_worker_that_is_to_leave_claims_nothing_more_and_finishes_what_it_holds() -> None:
    """It says at each step what it holds; once that is nothing, its pod may go. It never comes back."""
    gateway = FakeGateway()
    gateway.leave = lambda request: "offer" if request.holds is None else "yes"
    gateway.add(3)
    act, opened, begun = gate()
    async with Serving(gateway, act, slots=2) as worker:
        await gateway.until(lambda: bool(gateway.requests) and gateway.requests[-1].leaves)
        first = len(gateway.requests) - 1
        assert worker.leaving.is_set()
        assert gateway.requests[-1].holds == 2
        gateway.leave = lambda _: "no"
        worker.wake()
        opened.set()
        await gateway.until(lambda: gateway.requests[-1].holds == 0)

        assert {request.want for request in gateway.requests[first:]} == {0}
        assert all(request.leaves for request in gateway.requests[first:])
        finished = [f.run for request in gateway.requests for f in request.finished]
        assert sorted(finished) == sorted(begun) == ["run-1", "run-2"]
        holding_nothing = [r for r in gateway.requests[first:] if r.holds == 0]
        assert gateway.requests.index(holding_nothing[0]) >= max(
            n for n, request in enumerate(gateway.requests) if request.finished
        )
    assert gateway.rows["run-3"].attempt == 0


async def test_what_is_not_handed_in_yet_is_still_held() -> None:
    """A worker with more results than one call carries does not say in the first that it holds nothing."""
    gateway = FakeGateway()
    gateway.leave = lambda request: "offer" if request.holds is None else "yes"
    gateway.add(MAX_FINISHES + 50)
    act, opened, _ = gate()
    async with Serving(gateway, act, slots=MAX_FINISHES + 50):
        await gateway.until(lambda: bool(gateway.requests) and gateway.requests[-1].leaves)
        opened.set()
        await gateway.until_over()

    said = [(len(r.finished), r.holds) for r in gateway.requests if r.finished]
    assert said == [(MAX_FINISHES, 50), (50, 0)]


async def test_what_does_not_end_within_the_grace_is_handed_back_with_its_checkpoints() -> None:
    """A stopped worker's run is due again, goes on after its last checkpoint, and burns no attempt."""
    gateway = FakeGateway()
    gateway.add(1)
    hung = asyncio.Event()

    async def act(given: Assignment, journal: Any) -> Finish:
        journal.note(StepRecord(name="a", state="succeeded", output=raw("kept")))
        hung.set()
        await asyncio.Event().wait()
        return succeeded(given)

    async with Serving(gateway, act) as worker:
        await hung.wait()
        await worker.stop(0.01)

    row = gateway.rows["run-1"]
    assert (row.attempt, list(row.steps), list(gateway.due)) == (0, ["a"], ["run-1"])


async def test_what_was_claimed_ahead_is_handed_back_at_once() -> None:
    """Runs that have not begun when the worker stops do not wait for its grace."""
    gateway = FakeGateway()
    gateway.add(13)
    act, opened, begun = gate()

    async def quick_then_slow(given: Assignment, journal: Any) -> Finish:
        if given.run == "run-1":
            return succeeded(given)
        return await act(given, journal)

    async with Serving(gateway, quick_then_slow, slots=10) as worker:
        await gateway.until(lambda: sum(row.held for row in gateway.rows.values()) == 12)
        stopping = asyncio.create_task(worker.stop(10))
        await gateway.until(lambda: len(gateway.due) == 2)
        opened.set()
        await stopping

    assert len(begun) == 10
    assert sum(row.finish is not None for row in gateway.rows.values()) == 11


async def test_what_a_call_under_way_brings_to_a_stopping_worker_is_handed_back() -> None:
    """Told to stop between the claim and its answer, a worker does not keep the runs until their lease ends."""
    gateway = FakeGateway()
    claimed, answered = asyncio.Event(), asyncio.Event()
    work = gateway.work

    async def slow(request: Any) -> Any:
        reply = await work(request)
        if reply.assignments:
            claimed.set()
            await answered.wait()
        return reply

    gateway.work = slow  # type: ignore[method-assign]
    gateway.add(3)
    async with Serving(gateway, ACT) as worker:
        await claimed.wait()
        stopping = asyncio.create_task(worker.stop(10))
        await asyncio.sleep(0)
        answered.set()
        await stopping

    assert sorted(gateway.due) == ["run-1", "run-2", "run-3"]
    assert {row.attempt for row in gateway.rows.values()} == {0}


async def test_a_cancelled_run_is_stopped_and_handed_in_as_cancelled() -> None:
    """What a person cancels ends within a heartbeat."""
    gateway = FakeGateway(lease_seconds=1)
    gateway.add(1)
    act, _, begun = gate()
    async with Serving(gateway, act):
        await gateway.until(lambda: len(begun) == 1)
        gateway.rows["run-1"].cancel = True
        await gateway.until_over(seconds=5)

    assert gateway.rows["run-1"].finish.outcome == "cancelled"  # type: ignore[union-attr]


async def test_a_run_that_waits_for_a_slot_can_be_cancelled_too() -> None:
    """What was claimed ahead is cancelled without having begun."""
    gateway = FakeGateway(lease_seconds=1)
    gateway.add(13)
    act, _, begun = gate()

    async def quick_then_slow(given: Assignment, journal: Any) -> Finish:
        return succeeded(given) if given.run == "run-1" else await act(given, journal)

    async with Serving(gateway, quick_then_slow, slots=10):
        await gateway.until(lambda: gateway.rows["run-12"].held)
        gateway.rows["run-12"].cancel = True
        await gateway.until(lambda: gateway.rows["run-12"].finish is not None, seconds=5)

    assert gateway.rows["run-12"].finish.outcome == "cancelled"  # type: ignore[union-attr]
    assert "run-12" not in begun


async def test_a_lost_run_is_dropped_without_a_word() -> None:
    """When another attempt holds the run, this one stops and hands nothing in."""
    gateway, figures = FakeGateway(lease_seconds=1), Figures()
    gateway.add(1)
    act, _, begun = gate()
    async with Serving(gateway, act, figures=figures):
        await gateway.until(lambda: len(begun) == 1)
        gateway.rows["run-1"].fence += 1
        async with asyncio.timeout(5):
            while figures.outcomes["lost"] == 0:
                await asyncio.sleep(0.01)

    assert gateway.rows["run-1"].finish is None
    assert not any(r.finished for r in gateway.requests)


async def test_a_checkpoint_of_a_lost_run_stops_it() -> None:
    """The answer to a checkpoint tells as well as a heartbeat does."""
    gateway, figures = FakeGateway(), Figures()
    gateway.add(1)
    began = asyncio.Event()
    go = asyncio.Event()

    async def act(given: Assignment, journal: Any) -> Finish:
        began.set()
        await go.wait()
        await journal.commit(StepRecord(name="a", state="started"))
        return succeeded(given)

    async with Serving(gateway, act, figures=figures):
        await began.wait()
        gateway.rows["run-1"].fence += 1
        go.set()
        await gateway.until(lambda: any(r.checkpoints for r in gateway.requests))
        await asyncio.sleep(0.05)

    assert figures.outcomes == {"lost": 1}


async def test_the_answer_to_a_checkpoint_that_nobody_waits_for_stops_a_lost_run_too() -> None:
    """A run that is another's by now ends with its next checkpoint, long before a heartbeat."""
    gateway, figures = FakeGateway(), Figures()
    gateway.add(1)
    began, go = asyncio.Event(), asyncio.Event()

    async def act(given: Assignment, journal: Any) -> Finish:
        began.set()
        await go.wait()
        journal.note(StepRecord(name="a", state="succeeded"))
        await asyncio.Event().wait()
        return succeeded(given)

    async with Serving(gateway, act, figures=figures):
        await began.wait()
        gateway.rows["run-1"].fence += 1
        go.set()
        await gateway.until(lambda: figures.outcomes["lost"] == 1)

    assert gateway.heartbeats == []


async def test_leases_are_renewed_in_time() -> None:
    """A run longer than its lease stays with its worker."""
    gateway = FakeGateway(lease_seconds=1)
    gateway.add(1)

    async def act(given: Assignment, _: Any) -> Finish:
        await gateway.until(lambda: len(gateway.heartbeats) >= 5)
        return succeeded(given)

    async with Serving(gateway, act):
        await gateway.until_over()

    assert gateway.rows["run-1"].finish.outcome == "succeeded"  # type: ignore[union-attr]


async def test_a_run_whose_lease_cannot_be_renewed_is_let_go() -> None:
    """When the gateway is silent for a whole lease, the run may be another's: it stops."""
    gateway, figures = FakeGateway(lease_seconds=1), Figures()
    gateway.add(1)
    gateway.beat_failures.extend([Unavailable("down")] * 1000)
    act, _, begun = gate()
    async with Serving(gateway, act, figures=figures):
        await gateway.until(lambda: len(begun) == 1)
        async with asyncio.timeout(5):
            while figures.outcomes["lost"] == 0:
                await asyncio.sleep(0.01)

    assert gateway.rows["run-1"].finish is None


async def test_a_worker_that_was_frozen_beyond_the_lease_begins_no_further_step() -> None:
    """Another worker may have done the next step already: the one that wakes stops before it, not after."""
    gateway, figures = FakeGateway(lease_seconds=1), Figures()
    gateway.add(1)
    begun: list[str] = []

    async def act(given: Assignment, journal: Any) -> Finish:
        time.sleep(1.1)  # noqa: ASYNC251 - as a frozen process: nothing else has its turn
        journal.note(StepRecord(name="a", state="succeeded"))
        begun.append("b")
        return succeeded(given)

    async with Serving(gateway, act, figures=figures):
        await gateway.until(lambda: figures.outcomes["lost"] == 1)

    assert begun == []
    assert not any(r.checkpoints or r.finished for r in gateway.requests)


def test_a_run_that_waited_for_a_slot_has_that_much_less_time() -> None:
    """The run's time counts from the claim, whenever its execution begins, and by no wall clock."""
    held = HeldRuns(slots=1)
    held.add([assignment(deadline=60.0)], asked_at=1000.0, now=1000.0)

    started = held.next_to_start()

    assert started is not None
    assert started.begun(1025.0, started.assignment).seconds_left == 35.0


async def test_a_defect_takes_down_its_run_only() -> None:
    """An exception of ours fails the run as internal, without its text, and the others go on."""
    gateway = FakeGateway()
    gateway.add(2)

    async def act(given: Assignment, _: Any) -> Finish:
        if given.run == "run-1":
            raise RuntimeError("sk-secret")
        return succeeded(given)

    async with Serving(gateway, act):
        await gateway.until_over()

    broken = gateway.rows["run-1"].finish
    assert broken is not None
    assert (broken.outcome, broken.reason) == ("failed", "Internal")
    assert "sk-secret" not in broken.message
    assert gateway.rows["run-2"].finish.outcome == "succeeded"  # type: ignore[union-attr]


async def test_log_lines_arrive_in_company_and_are_bounded() -> None:
    """Lines of a running run arrive within moments, in few calls; a flood is cut with a word about it."""
    gateway = FakeGateway()
    gateway.add(1)
    opened = asyncio.Event()

    async def act(given: Assignment, journal: Any) -> Finish:
        for n in range(6000):
            journal.log("info", f"line {n}", "a")
        await opened.wait()
        return succeeded(given)

    async with Serving(gateway, act):
        await gateway.until(lambda: len(gateway.lines) == 5000)
        opened.set()
        await gateway.until_over()

    assert gateway.lines[0].message == "line 0"
    assert gateway.lines[-1].message.startswith("further lines are dropped")
    assert sum(bool(r.logs) for r in gateway.requests) == 10


async def test_a_commit_returns_only_once_the_gateway_has_it() -> None:
    """What must be durable is in the record when the step goes on."""
    gateway = FakeGateway()
    gateway.add(1)
    seen: list[Any] = []

    async def act(given: Assignment, journal: Any) -> Finish:
        await journal.commit(StepRecord(name="a", state="started"))
        seen.append(gateway.rows["run-1"].steps.get("a"))
        return succeeded(given)

    async with Serving(gateway, act):
        await gateway.until_over()

    assert seen[0].state == "started"


async def test_a_refused_checkpoint_fails_its_step() -> None:
    """A checkpoint that the gateway will never take is the step's failure, not a hang."""
    gateway = FakeGateway()
    gateway.add(1)
    gateway.refuse = lambda r: "too odd" if r.checkpoints else None

    async def act(given: Assignment, journal: Any) -> Finish:
        try:
            await journal.commit(StepRecord(name="a", state="started"))
        except StepFailed as error:
            return Finish(run=given.run, fence=given.fence, outcome="failed", message=error.message)
        return succeeded(given)

    async with Serving(gateway, act):
        await gateway.until_over()

    assert gateway.rows["run-1"].finish.message == "the checkpoint was refused: too odd"  # type: ignore[union-attr]


async def test_a_worker_that_dies_leaves_a_run_that_the_next_one_finishes() -> None:
    """Killed between two steps: the next worker does the second and not the first."""
    gateway = FakeGateway()
    gateway.add(1, {"n": 5})
    what = agent(step("a", value="input.n"), step("b", "a", value="steps.a + 1"))
    done = executing(what)
    reached = asyncio.Event()

    async def dies(given: Assignment, journal: Any) -> Finish:
        await journal.commit(StepRecord(name="a", state="succeeded", output=raw(40)))
        reached.set()
        await asyncio.Event().wait()
        return succeeded(given)

    dead = Worker(gateway=gateway, execute=dies, slots=1, figures=Figures())
    serving = asyncio.create_task(dead.serve())
    await reached.wait()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    gateway.rescue("run-1")
    async with Serving(gateway, done):
        await gateway.until_over()

    finish = gateway.rows["run-1"].finish
    assert finish is not None
    assert msgspec.json.decode(finish.output) == 41
    assert gateway.rows["run-1"].attempt == 2


async def test_a_worker_that_cannot_hand_in_still_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that is gone does not keep a stopping worker for ever."""
    monkeypatch.setattr("everesthood.usecases.work_loop.HAND_IN_SECONDS", 0.05)
    gateway = FakeGateway()
    gateway.add(1)
    act, opened, begun = gate()
    async with Serving(gateway, act) as worker:
        await gateway.until(lambda: len(begun) == 1)
        gateway.failures.extend([Unavailable("down")] * 1000)
        opened.set()
        await worker.stop(0.01)

    assert gateway.rows["run-1"].finish is None
