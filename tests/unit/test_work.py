"""What the gateway refuses of a worker's call before the record sees it, and the order of its doings."""

import msgspec
import pytest

from everesthood.apis.wire import Finish, HeartbeatRequest, Held, LogLine, StepRecord, WorkReply, WorkRequest
from everesthood.domain.errors import Invalid
from everesthood.domain.steps import MAX_OUTPUT_BYTES
from everesthood.usecases.ports.record import WorkerSeat
from everesthood.usecases.work import heartbeat, work

RUN = "01a210f8-bbdb-7b9e-9039-540eaddf7bcd"
SEAT = WorkerSeat(instance_uid="uid-a", namespace="acme", instance="greeter", revision="r1", pod="p")
BIG = msgspec.Raw(b'"' + b"x" * MAX_OUTPUT_BYTES + b'"')


class Log:
    """A bell and a record that write down what was asked of them."""

    def __init__(self):
        self.calls = []

    async def settle(self, uid, revision):
        self.calls.append(("settle", uid, revision))

    async def work(self, seat, request):
        self.calls.append(("work", seat.pod, request))
        return WorkReply()

    async def heartbeat(self, seat, request):
        self.calls.append(("heartbeat", seat.pod, request))


def step(**changes):
    return msgspec.structs.replace(StepRecord(name="s", state="succeeded"), **changes)


def finish(**changes):
    return msgspec.structs.replace(Finish(run=RUN, fence=1, outcome="succeeded"), **changes)


def line(**changes):
    return msgspec.structs.replace(LogLine(run=RUN, fence=1, at=1.0, level="info", message="m"), **changes)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (WorkRequest(want=-1), "want: must be from 0 to 1000."),
        (WorkRequest(want=1001), "want: must be from 0 to 1000."),
        (WorkRequest(finished=(finish(run="x"),)), "finished[0].run: not the id of a run."),
        (WorkRequest(finished=(finish(fence=0),)), "finished[0].fence: must be a positive 32-bit number."),
        (WorkRequest(finished=(finish(fence=2**31),)), "finished[0].fence: must be"),
        (WorkRequest(finished=(finish(output=BIG),)), "finished[0].output: larger than 1048576 bytes."),
        (WorkRequest(finished=(finish(steps=(step(output=BIG),)),)), "finished[0].steps.s.output: larger"),
        (WorkRequest(finished=(finish(steps=(step(tries=-1),)),)), "finished[0].steps.s.tries: must be"),
        (WorkRequest(finished=(finish(steps=(step(started_at=1e300),)),)), "started_at: not a time"),
        (WorkRequest(finished=(finish(steps=(step(finished_at=-1.0),)),)), "finished_at: not a time"),
        (WorkRequest(logs=(line(at=float("inf")),)), "logs[0].at: not a time"),
        (WorkRequest(logs=(line(), line(run="x"))), "logs[1].run: not the id of a run."),
    ],
)
async def test_a_call_that_breaks_a_rule_is_refused_whole(request_, says):
    """One sentence names the field, and nothing of the call is written."""
    log = Log()

    with pytest.raises(Invalid) as refused:
        await work(store=log, bell=log, seat=SEAT, request=request_)

    assert says in refused.value.message
    assert log.calls == []


async def test_the_bell_is_settled_before_the_claim():
    """What is accepted after the claim rings again: the bell must be forgotten first."""
    log = Log()

    await work(store=log, bell=log, seat=SEAT, request=WorkRequest(want=1, settle_bell=True))
    await work(store=log, bell=log, seat=SEAT, request=WorkRequest(want=1))

    assert [call[0] for call in log.calls] == ["settle", "work", "work"]
    assert log.calls[0] == ("settle", "uid-a", "r1")


async def test_long_sentences_are_cut():
    """A worker that talks without end fills no list and no table."""
    log = Log()
    request = WorkRequest(logs=(line(message="x" * 9000), line()), finished=(finish(message="y" * 9000),))

    await work(store=log, bell=log, seat=SEAT, request=request)

    written = log.calls[0][2]
    assert [len(entry.message) for entry in (*written.logs, *written.finished)] == [8192, 1, 8192]
    assert written.logs[0].message.endswith("x…")


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ((Held(run="x", fence=1),), "held[0].run"),
        ((Held(run=RUN, fence=-1),), "held[0].fence"),
        ((Held(run=RUN, fence=1),) * 1001, "held: at most 1000 runs"),
    ],
)
async def test_a_heartbeat_that_breaks_a_rule_is_refused(held, says):
    """A heartbeat names runs as they were given out."""
    log = Log()

    with pytest.raises(Invalid) as refused:
        await heartbeat(store=log, seat=SEAT, request=HeartbeatRequest(held=held))

    assert says in refused.value.message


async def test_a_good_heartbeat_reaches_the_record():
    """A heartbeat is passed on as it is."""
    log = Log()
    request = HeartbeatRequest(held=(Held(run=RUN, fence=1),))

    await heartbeat(store=log, seat=SEAT, request=request)

    assert log.calls == [("heartbeat", "p", request)]
