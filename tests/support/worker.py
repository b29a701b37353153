"""A worker's surroundings, in memory: a gateway that keeps runs, a journal, a way out, and figures."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from everesthood.adapters.languages import Languages
from everesthood.adapters.steps import Steps
from everesthood.apis import wire
from everesthood.domain.errors import EveresthoodError, Refused
from everesthood.domain.steps import Agent, AgentSpec, agent_of
from everesthood.usecases.execute_run import execute_run
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Answer, Call
from everesthood.usecases.work_loop import Execute, Worker

# pytest-asyncio remembers "the current loop" before each test; where none was ever set, Python 3.11 makes
# one for it that nobody closes, and the warning about that fails whichever test is running by then.
asyncio.set_event_loop(None)

LANGUAGES = Languages()


def raw(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def step(name: str, *needs: str, value: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return a step as a manifest writes it; a transform unless told otherwise."""
    if not fields.keys() & {"http", "llm", "code", "transform", "forEach", "mcp", "agent", "approval"}:
        fields["transform"] = {"value": value or "1"}
    return {"name": name, "needs": list(needs), **fields}


def agent(
    *steps: dict[str, Any],
    config: object = None,
    internal: tuple[str, ...] = (),
    slots: Mapping[str, list[str]] | None = None,
    **spec: Any,
) -> Agent:
    program = wire.Program(
        instance_uid="uid",
        namespace="acme",
        instance="agent",
        revision="0123456789abcdef",
        template=raw({"displayName": "Agent", "steps": steps, **spec}),
        config=raw(config),
        slots=dict(slots or {}),
        internal_hosts=internal,
    )
    return agent_of(program)


def spec_of(*steps: dict[str, Any]) -> AgentSpec:
    return msgspec.json.decode(raw({"steps": steps}), type=AgentSpec)


def assignment(
    run: str = "run-1",
    *,
    steps: tuple[wire.StepRecord, ...] = (),
    value: object = None,
    deadline: float = 60.0,
    attempt: int = 1,
    fence: int = 1,
    lease_seconds: int = 30,
) -> wire.Assignment:
    return wire.Assignment(
        run=run,
        fence=fence,
        attempt=attempt,
        input=raw(value),
        request_id="request-1",
        seconds_left=deadline,
        lease_seconds=lease_seconds,
        steps=steps,
    )


class Figures:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.steps: Counter[tuple[str, str]] = Counter()
        self.most_running = 0

    def enter_run(self, run: str, request_id: str, attempt: int) -> None: ...

    def run_ended(self, outcome: str, seconds: float) -> None:
        self.outcomes[outcome] += 1

    def step_ended(self, kind: str, state: str, seconds: float) -> None:
        self.steps[kind, state] += 1

    def holding(self, running: int, waiting: int) -> None:
        self.most_running = max(self.most_running, running)

    def gateway_called(self, call: str, outcome: str, seconds: float) -> None: ...


class Journal:
    """Keeps what is written; `commit` is durable at once."""

    def __init__(self) -> None:
        self.records: dict[str, wire.StepRecord] = {}
        self.history: list[tuple[str, str]] = []
        self.lines: list[tuple[str, str, str]] = []

    def note(self, record: wire.StepRecord) -> None:
        self.records[record.name] = record
        self.history.append((record.name, record.state))

    async def commit(self, record: wire.StepRecord) -> None:
        await asyncio.sleep(0)
        self.note(record)

    def log(self, level: str, message: str, step: str = "") -> None:
        self.lines.append((level, message, step))


class Credentials:
    """Has the values it is given."""

    def __init__(self, **leases: wire.CredentialLease) -> None:
        self.leases = leases
        self.asked: list[str] = []

    async def lease(self, slot: str) -> wire.CredentialLease:
        self.asked.append(slot)
        return self.leases[slot]

    def redact(self, text: str) -> str:
        for lease in self.leases.values():
            text = text.replace(lease.value, "[credential]")
        return text


class Way:
    """A way out that answers from a function and remembers the calls."""

    def __init__(self, answer: Callable[[Call], Answer] | None = None) -> None:
        self.calls: list[Call] = []
        self._answer = answer or (lambda _: Answer(status=200, headers={}, body=b""))

    async def send(self, call: Call) -> Answer:
        self.calls.append(call)
        await asyncio.sleep(0)
        return self._answer(call)


def doing(
    outbound: Any = None,
    credentials: Any = None,
    figures: Any = None,
    *,
    pauses: list[float] | None = None,
    children: Any = None,
) -> Doing:
    """Return what steps take; pauses between tries are noted and not waited for."""

    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)
        await asyncio.sleep(0)

    expressions = Expressions(LANGUAGES)
    steps = Steps(
        expressions=expressions,
        outbound=outbound or Way(),
        credentials=credentials or Credentials(),
        children=children,
    )
    return Doing(
        runner=steps,
        expressions=expressions,
        figures=figures or Figures(),
        sleep=sleep,
        chance=random.Random(1),
    )


async def execute(
    what: Agent,
    given: wire.Assignment | None = None,
    *,
    journal: Journal | None = None,
    by: Doing | None = None,
) -> wire.Finish:
    return await execute_run(given or assignment(), journal or Journal(), agent=what, doing=by or doing())


def executing(what: Agent, by: Doing | None = None) -> Execute:
    chosen = by or doing()

    async def run(given: wire.Assignment, journal: Any) -> wire.Finish:
        return await execute_run(given, journal, agent=what, doing=chosen)

    return run


def output_of(finish: wire.Finish) -> Any:
    return msgspec.json.decode(finish.output)


@dataclass(slots=True, kw_only=True)
class Row:
    """A run in the fake gateway's keeping."""

    id: str
    input: msgspec.Raw
    fence: int = 0
    attempt: int = 0
    held: bool = False
    steps: dict[str, wire.StepRecord] = field(default_factory=dict)
    finish: wire.Finish | None = None
    cancel: bool = False


class FakeGateway:
    """The port `Gateway` over a dictionary: claims, fences, checkpoints, releases."""

    def __init__(self, *, lease_seconds: int = 30) -> None:
        self.rows: dict[str, Row] = {}
        self.due: deque[str] = deque()
        self.requests: list[wire.WorkRequest] = []
        self.heartbeats: list[wire.HeartbeatRequest] = []
        self.lines: list[wire.LogLine] = []
        self.failures: deque[EveresthoodError] = deque()
        self.beat_failures: deque[EveresthoodError] = deque()
        self.refuse: Callable[[wire.WorkRequest], str | None] = lambda _: None
        self.after_call: Callable[[wire.WorkRequest], None] = lambda _: None
        self.outlook: Callable[[wire.WorkReply, wire.WorkRequest], wire.WorkReply] = lambda reply, _: reply
        self.leave: Callable[[wire.WorkRequest], Literal["no", "offer", "yes"]] = lambda _: "no"
        self.lease_seconds = lease_seconds
        self.keep_requests = True
        self.watches = 0
        self.cancelled = asyncio.Event()
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    def add(self, count: int = 1, value: object = None) -> list[str]:
        names = [f"run-{next(self._numbers)}" for _ in range(count)]
        encoded = raw(value)
        for name in names:
            self.rows[name] = Row(id=name, input=encoded)
            self.due.append(name)
        return names

    def rescue(self, run: str) -> None:
        """Do as the scheduler does with an expired lease."""
        self.rows[run].held = False
        self.due.append(run)

    async def until(self, condition: Callable[[], bool], seconds: float = 10.0) -> None:
        """Wait until the condition is true; calls to the gateway are looked at first."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._changed.wait()

    async def until_over(self, seconds: float = 10.0) -> None:
        await self.until(lambda: all(row.finish is not None for row in self.rows.values()), seconds)

    async def program(self) -> wire.Program:
        raise Refused("not asked for here")

    async def queue(self) -> wire.QueueLease:
        raise Refused("not asked for here")

    async def lease(self, slot: str) -> wire.CredentialLease:
        raise Refused(f"no credential for {slot}")

    async def hold(self, request: wire.HoldRequest) -> wire.HoldReply:
        return wire.HoldReply(seconds=request.seconds)

    async def work(self, request: wire.WorkRequest) -> wire.WorkReply:
        if self.keep_requests:
            self.requests.append(request)
        await asyncio.sleep(0)
        if self.failures:
            raise self.failures.popleft()
        if (why := self.refuse(request)) is not None:
            raise Refused(why)
        lost = self._write(request)
        assignments = tuple(self._claim(request.want))
        self.after_call(request)
        self._changed.set()
        reply = wire.WorkReply(assignments=assignments, lost=tuple(lost), leave=self.leave(request))
        return self.outlook(reply, request)

    def _write(self, request: wire.WorkRequest) -> list[str]:
        lost = []
        self.lines.extend(request.logs)
        writes: list[wire.Checkpoint | wire.Finish] = [*request.checkpoints, *request.finished]
        for written in writes:
            row = self.rows[written.run]
            if not row.held or row.fence != written.fence:
                lost.append(written.run)
                continue
            assert len({s.name for s in written.steps}) == len(written.steps)
            row.steps.update({s.name: s for s in written.steps})
            if isinstance(written, wire.Finish):
                row.held = False
                if written.outcome == "released":
                    row.attempt -= 1
                    self.due.append(row.id)
                else:
                    row.finish = written
        return lost

    def _claim(self, want: int) -> Any:
        while want > 0 and self.due:
            row = self.rows[self.due.popleft()]
            row.held, row.fence, row.attempt = True, row.fence + 1, row.attempt + 1
            want -= 1
            yield wire.Assignment(
                run=row.id,
                fence=row.fence,
                attempt=row.attempt,
                input=row.input,
                request_id="request",
                seconds_left=3600.0,
                lease_seconds=self.lease_seconds,
                steps=tuple(row.steps.values()),
            )

    async def watch(self) -> bool:
        self.watches += 1
        await self.cancelled.wait()
        self.cancelled.clear()
        return True

    async def heartbeat(self, request: wire.HeartbeatRequest) -> wire.HeartbeatReply:
        self.heartbeats.append(request)
        self._changed.set()
        if self.beat_failures:
            raise self.beat_failures.popleft()
        mine = {h.run for h in request.held if self._is_held(h)}
        return wire.HeartbeatReply(
            lost=tuple(h.run for h in request.held if h.run not in mine),
            cancel=tuple(run for run in mine if self.rows[run].cancel),
        )

    def _is_held(self, held: wire.Held) -> bool:
        row = self.rows[held.run]
        return row.held and row.fence == held.fence


class Serving:
    """A worker that serves for the length of a `with`."""

    def __init__(self, gateway: Any, execute: Execute, *, slots: int = 10, figures: Any = None) -> None:
        self.figures = figures or Figures()
        self.worker = Worker(gateway=gateway, execute=execute, slots=slots, figures=self.figures)
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Worker:
        self._serving = asyncio.create_task(self.worker.serve())
        await asyncio.sleep(0)
        return self.worker

    async def __aexit__(self, *_: object) -> None:
        assert self._serving is not None
        if not self._serving.done():
            await self.worker.stop(0)
        await self._serving
