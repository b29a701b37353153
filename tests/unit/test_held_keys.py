"""A provider that asks to wait: its key is held, nothing is sent with it, and no try is counted."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from tests.support.worker import Journal, Way, agent, assignment, doing, execute, output_of, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Finish, HoldReply, HoldRequest, StepRecord
from everesthood.domain.attempts import SHORT_HOLD_SECONDS, held_seconds
from everesthood.domain.errors import KeyHeld, Unavailable
from everesthood.usecases.heed_holds import HeedingOutbound
from everesthood.usecases.ports.worker import Answer, Call

OK = Answer(status=200, headers={}, body=b"done")
GET: dict[str, Any] = {"url": "https://api.example/", "credential": "key"}
POST: dict[str, Any] = {**GET, "method": "POST"}
SLOTS = {"key": ["api.example"]}


def busy(seconds: object = 3, status: int = 429) -> Answer:
    return Answer(status=status, headers={"retry-after": str(seconds)}, body=b"")


def saying(*answers: Answer) -> Way:
    """Answer with these in turn, the last one again and again."""
    left = list(answers)
    return Way(lambda _: left.pop(0) if len(left) > 1 else left[0])


class Desk:
    """The part of the gateway that is told of holds."""

    def __init__(self, error: Exception | None = None) -> None:
        self.told: list[tuple[str, float]] = []
        self._error = error

    async def hold(self, request: HoldRequest) -> HoldReply:
        self.told.append((request.slot, request.seconds))
        if self._error is not None:
            raise self._error
        return HoldReply(seconds=request.seconds)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def heeding(way: Way, desk: Desk | None = None) -> tuple[HeedingOutbound, Desk, Clock]:
    desk, clock = desk or Desk(), Clock()
    return HeedingOutbound(way, desk, now=clock), desk, clock  # type: ignore[arg-type]


def call(credential: str | None = "key") -> Call:
    return Call(method="GET", url="https://api.example/", credential=credential)


async def run(
    way: Any, *steps: dict[str, Any], past: Iterable[StepRecord] = (), **spec: Any
) -> tuple[Finish, list[float], Journal]:
    """Return how a run ends, the pauses that it made, and what it wrote."""
    pauses: list[float] = []
    journal = Journal()
    given = assignment(steps=tuple(past))
    what = agent(*steps, slots=SLOTS, **spec)
    finish = await execute(what, given, journal=journal, by=doing(way, pauses=pauses))
    return finish, pauses, journal


# --- what holds a key -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "7", 7),
        (503, "7", 7),
        (529, "7", 7),
        (429, "Thu, 01 Jan 2026 00:01:00 GMT", 60),
        (429, "999999", 3600),
        (429, None, 2),
        (429, "soon", 2),
        (429, "0", None),
        (503, None, None),
        (529, "soon", None),
        (500, "7", None),
        (200, "7", None),
    ],
)
def test_an_answer_that_names_a_time_holds_the_key(status, header, seconds):
    """Servers hold it for as long as they say, up to an hour; too many requests without a time, for 2 s."""
    assert held_seconds(status, header, datetime(2026, 1, 1, tzinfo=UTC)) == seconds


async def test_the_gateway_is_told_once_of_a_hold() -> None:
    """Runs that are refused together tell of one hold; a longer one is told again."""
    outbound, desk, _ = heeding(saying(busy(3), busy(3), busy(9)))

    await asyncio.gather(*(outbound.send(call()) for _ in range(3)))

    assert desk.told == [("key", 3.0), ("key", 9.0)]


async def test_nothing_is_sent_while_the_key_is_held() -> None:
    """All runs of the worker heed the hold; a call without the credential does not need it."""
    way = saying(busy(3), OK)
    outbound, desk, clock = heeding(way)
    assert (await outbound.send(call())).status == 429

    with pytest.raises(KeyHeld) as held:
        await outbound.send(call())
    assert (held.value.seconds, held.value.reason) == (3.0, Reason.CREDENTIAL_HELD)
    assert (await outbound.send(call(None))).status == 200
    assert (await outbound.send(call("other"))).status == 200
    clock.now += 3
    assert (await outbound.send(call())).status == 200
    assert (len(way.calls), desk.told) == (4, [("key", 3.0)])


async def test_a_gateway_that_cannot_be_told_does_not_break_the_call() -> None:
    """The worker itself heeds the hold all the same."""
    outbound, _, _ = heeding(saying(busy(3)), Desk(Unavailable("away")))

    assert (await outbound.send(call())).status == 429
    with pytest.raises(KeyHeld):
        await outbound.send(call())


# --- what becomes of steps and runs -----------------------------------------------------------


@pytest.mark.parametrize("member", [GET, POST])
async def test_a_short_hold_is_waited_for_without_a_try(member: dict[str, Any]) -> None:
    """A step without retry outlasts three short holds, and counts one try."""
    finish, pauses, journal = await run(saying(busy(3), busy(2), busy(1), OK), step("call", http=member))

    assert finish.outcome == "succeeded"
    assert [3 <= pauses[0] <= 3.3, 2 <= pauses[1] <= 2.2, 1 <= pauses[2] <= 1.1] == [True] * 3
    assert (journal.records["call"].tries, len(pauses)) == (1, 3)


async def test_without_a_credential_a_busy_server_is_a_failed_try() -> None:
    """There is no key to hold: the step's retry decides."""
    free = {"url": "https://api.example/"}
    finish, pauses, _ = await run(saying(busy(3)), step("call", http=free))

    assert (finish.outcome, finish.reason, pauses) == ("failed", Reason.STEP_FAILED, [])


@pytest.mark.parametrize("member", [GET, POST])
async def test_for_a_long_hold_the_run_goes_back_to_its_queue(member: dict[str, Any]) -> None:
    """The run is handed back until the hold is over, says why, and keeps what it had done."""
    steps = step("first"), step("call", "first", http=member)
    finish, pauses, journal = await run(saying(busy(int(SHORT_HOLD_SECONDS) + 50)), *steps)

    assert (finish.outcome, finish.retry_after_seconds, pauses) == ("released", 60.0, [])
    assert (finish.reason, finish.transient) == (Reason.CREDENTIAL_HELD, False)
    assert finish.message.startswith("steps.call: ")
    assert "asked to wait 60 s" in finish.message
    assert journal.records["first"].state == "succeeded"


@pytest.mark.parametrize("member", [GET, POST])
async def test_a_run_that_was_handed_back_goes_on_at_the_step_that_was_held(member: dict[str, Any]) -> None:
    """The step did not happen, so it is neither failed nor in doubt, even where it must not be repeated."""
    steps = step("first"), step("call", "first", http=member)
    _, _, journal = await run(saying(busy(60)), *steps)

    finish, _, after = await run(saying(OK), *steps, past=journal.records.values())

    assert (finish.outcome, output_of(finish)["body"]) == ("succeeded", "done")
    assert [name for name, state in after.history if state == "succeeded"] == ["call"]


async def test_a_failure_says_more_than_a_held_key() -> None:
    """A run with a step that failed is dead, whatever another step waits for."""

    def answer(asked: Call) -> Answer:
        return busy(60) if asked.credential else Answer(status=404, headers={}, body=b"")

    steps = step("held", http=GET), step("broken", http={"url": "https://api.example/"})
    finish, _, _ = await run(Way(answer), *steps)
    turned, _, _ = await run(Way(answer), *reversed(steps))

    assert {(one.outcome, one.message) for one in (finish, turned)} == {
        ("failed", "steps.broken: GET api.example answered 404")
    }


async def test_items_of_a_loop_wait_too() -> None:
    """A forEach whose inner step is held hands the run back, and then goes on with the items that are left."""
    loop = step(
        "each",
        forEach={"items": "[1, 2]", "maxParallel": 1, "steps": [step("call", http=POST)]},
    )
    finish, _, journal = await run(saying(OK, busy(60)), loop)
    again, _, _ = await run(saying(OK), loop, past=journal.records.values())

    assert (finish.outcome, finish.reason) == ("released", Reason.CREDENTIAL_HELD)
    assert (again.outcome, len(output_of(again))) == ("succeeded", 2)


async def test_a_tool_that_is_held_is_not_told_to_the_model() -> None:
    """A call that must not be repeated and was not sent is withdrawn: the run waits, and goes on with it."""
    tool = {"name": "buy", "description": "Buys.", "parameters": {}, "http": POST}
    ask = {
        "endpoint": "https://model.example/v1",
        "model": "m",
        "instructions": "Help.",
        "prompt": "Buy.",
        "tools": [tool],
    }
    wants = {"id": "c1", "function": {"name": "buy", "arguments": "{}"}}
    script = [
        {"choices": [{"message": {"tool_calls": [wants]}}]},
        {"choices": [{"message": {"content": "bought"}}]},
    ]
    bought: list[Call] = []

    def answer(asked: Call) -> Answer:
        if "model.example" in asked.url:
            return Answer(status=200, headers={}, body=msgspec.json.encode(script.pop(0)))
        bought.append(asked)
        return OK

    outbound, _, clock = heeding(Way(answer))
    outbound._held_until["key"] = clock.now + 60
    finish, _, journal = await run(outbound, step("ask", agent=ask))
    clock.now += 60
    again, _, _ = await run(outbound, step("ask", agent=ask), past=journal.records.values())

    assert (finish.outcome, finish.retry_after_seconds) == ("released", 60.0)
    assert (again.outcome, output_of(again)["content"], len(bought)) == ("succeeded", "bought", 1)
