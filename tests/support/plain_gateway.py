"""A gateway without Kubernetes and PostgreSQL, for the worker process: HTTP outside, a dictionary inside."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from tests.support.servers import Asked, Reply, serving

from everesthood.apis import wire
from everesthood.domain.bells import bell_key
from everesthood.usecases.ports.record import DueBell

TOKEN = "token-of-the-worker"
REVISION = "r1"
UID = "uid-a"
SPEC = {"steps": [{"name": "answer", "transform": {"value": "input"}}]}


class PlainGateway:
    """Hands out runs in order, once each, and remembers when it was asked for what."""

    def __init__(self, lease: wire.QueueLease | None, settle: Callable[[str], object]) -> None:
        self.lease = lease
        self.spec: dict[str, Any] = SPEC
        self.queued: list[str] = []
        self.held: dict[str, int] = {}
        self.lines: list[wire.LogLine] = []
        self.ended: dict[str, wire.Finish] = {}
        self.claims_at: list[float] = []
        self.is_down = False
        self.too_many = False
        """True lets the worker leave."""
        self.left = False
        self._settle = settle
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    def add(self, count: int = 1) -> None:
        with self._changed:
            self.queued += [f"run-{next(self._numbers)}" for _ in range(count)]

    def until(self, condition: Callable[["PlainGateway"], bool], seconds: float = 20.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), seconds), (
                len(self.queued),
                self.held,
                len(self.ended),
            )

    def until_over(self, count: int, seconds: float = 20.0) -> None:
        self.until(lambda it: sum(one.outcome == "succeeded" for one in it.ended.values()) >= count, seconds)

    async def due_bells(self, _older_than_seconds: float) -> list[DueBell]:
        return [DueBell(instance_uid=UID, revision=REVISION)] if self.queued else []

    def answer(self, asked: Asked) -> Reply:
        if self.is_down:
            return Reply(status=503)
        if asked.headers.get("authorization") != f"Bearer {TOKEN}":
            return Reply(status=401)
        with self._changed:
            found = self._found(asked)
            self._changed.notify_all()
        if found is None:
            return Reply(status=503)
        return Reply(body=msgspec.json.encode(found), headers={"Content-Type": "application/json"})

    def _found(self, asked: Asked) -> wire.Message | None:
        match asked.path.partition("?")[0]:
            case wire.PROGRAM_PATH:
                return self._program()
            case wire.QUEUE_PATH:
                return self.lease
            case wire.WORK_PATH:
                return self._work(msgspec.json.decode(asked.body, type=wire.WorkRequest))
        return wire.HeartbeatReply()

    def _program(self) -> wire.Program:
        return wire.Program(
            instance_uid=UID,
            namespace="acme",
            instance="agent",
            revision=REVISION,
            template=msgspec.Raw(msgspec.json.encode(self.spec)),
            config=msgspec.Raw(b"{}"),
            slots={},
            internal_hosts=(),
        )

    def _work(self, request: wire.WorkRequest) -> wire.WorkReply:
        self.claims_at.append(time.time())
        self.lines.extend(request.logs)
        for end in request.finished:
            self.held.pop(end.run, None)
            if end.outcome == "released":
                self.queued.append(end.run)
            assert self.ended.setdefault(end.run, end) is end or end.outcome != "succeeded", "twice"
        if request.settle_bell:
            self._settle(bell_key(UID, REVISION))
        claimed, self.queued = self.queued[: request.want], self.queued[request.want :]
        self.left = self.left or (request.leaves and request.holds == 0)
        given = tuple(self._assigned(run) for run in claimed)
        if not (self.too_many or request.leaves):
            return wire.WorkReply(assignments=given)
        return wire.WorkReply(assignments=given, leave="offer" if request.holds is None else "yes")

    def _assigned(self, run: str) -> wire.Assignment:
        self.held[run] = 1
        return wire.Assignment(
            run=run,
            fence=1,
            attempt=1,
            input=msgspec.Raw(b'"hello"'),
            request_id=f"request-of-{run}",
            seconds_left=600.0,
            lease_seconds=30,
        )


@contextmanager
def plain_gateway(
    lease: wire.QueueLease | None, settle: Callable[[str], object] = lambda _: None
) -> Iterator[tuple[PlainGateway, str]]:
    """Serve; yield the gateway and its address."""
    gateway = PlainGateway(lease, settle)
    with serving() as server:
        for path in (wire.PROGRAM_PATH, wire.QUEUE_PATH, wire.WORK_PATH, wire.HEARTBEAT_PATH):
            server.replies[path] = gateway.answer
        yield gateway, f"http://127.0.0.1:{server.port}"
