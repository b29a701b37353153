"""Test a template without a cluster: its steps as a worker does them, with answers that the test gives.

    from everesthood.rehearsal import TemplateRehearsal, Use

    def test_it_buys_once() -> None:
        rehearsal = TemplateRehearsal(
            template="agent.yaml",
            input={"wish": "tea"},
            model=lambda messages: [Use("order", article="a1")] if len(messages) == 2 else "done",
            http=lambda request: {"order": 7},
        )

        assert rehearsal.run() == "done"
        assert rehearsal.steps["buy/turn1/call1"] == '{"status":200,"body":{"order":7}}'

A run that reaches an approval raises `WaitsForApproval`; `approve`, `reject` or `expire` it, and `run` again.

A second `run` of the same rehearsal goes on from the checkpoints of the first, as a worker does after
another died; `die_after` and `die_in` end the first one where you want it to die. Unlike
`everesthood.testing`, this needs all that a worker needs. `everesthood validate` judges the manifest.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from everesthood.adapters.languages import Languages
from everesthood.adapters.manifests import documents
from everesthood.adapters.outbound import Policy
from everesthood.adapters.steps import Steps
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import (
    Ask,
    Assignment,
    ChildReply,
    ChildRequest,
    CredentialLease,
    Finish,
    KeptStep,
    StepRecord,
)
from everesthood.domain.approvals import Decision, Question, Settled, settle, settle_unanswered
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.domain.runs import RunId, RunState
from everesthood.domain.steps import Agent, AgentSpec
from everesthood.sdk import Request, Response
from everesthood.testing import WorkerDied
from everesthood.usecases.execute_run import execute_run
from everesthood.usecases.execute_step import Doing
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Answer, Call

__all__ = ["TemplateRehearsal", "Use", "WaitsForApproval", "WorkerDied"]

_FOREVER = 3600.0


class Use:
    """What a rehearsed model answers to have a tool called: its name and the arguments."""

    def __init__(self, tool: str, **arguments: Any) -> None:  # noqa: ANN401 - any JSON values
        """Call this tool with these."""
        self.tool = tool
        self.arguments = arguments


class WaitsForApproval(Exception):  # noqa: N818 - nothing is wrong
    """Raised out of `run` where the run would wait for a person: the rehearsal's `questions` say what for."""


@dataclass(kw_only=True)
class TemplateRehearsal:
    """One run of a template's steps, played through on the test's own machine.

    Attributes:
        template: a file with an AgentTemplate, or its `spec`.
        http: answers each HTTP call, of steps and of tools: a Response, a text, or a JSON value.
        model: answers each model call, given its messages: a text, a JSON value, or a list of `Use`.
        mcp: answers each MCP tool call, given tool and arguments: a text, or an object.
        instances: answers each run of another instance, given its name and the input: the run's output.
        internal_hosts: hosts inside the cluster that the platform opens, `host:port`.
        die_after: name of the checkpoint after which the worker dies, once.
        die_in: name of the step that must not be repeated in the middle of which it dies, once.
    """

    template: str | Path | Mapping[str, Any]
    input: Any = None
    config: Any = None
    http: Callable[[Request], Any] | None = None
    model: Callable[[list[dict[str, Any]]], Any] | None = None
    mcp: Callable[[str, dict[str, Any]], Any] | None = None
    instances: Callable[[str, dict[str, Any]], Any] | None = None
    internal_hosts: Collection[str] = ()
    die_after: str | None = None
    die_in: str | None = None
    steps: dict[str, Any] = field(default_factory=dict)
    """Outputs of what is done, by checkpoint: `step`, `loop[0].inner`, `agent/turn1/call1`."""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """The run's log: (level, message)."""
    attempt: int = 0
    records: dict[str, StepRecord] = field(default_factory=dict)
    asks: dict[str, Ask] = field(default_factory=dict)

    @property
    def questions(self) -> dict[str, str]:
        """Return what the run asks people, by step."""
        return {name: ask.message for name, ask in self.asks.items()}

    def approve(self, step: str, *, by: str = "rehearsal", comment: str = "") -> None:
        """Answer a question with yes; the next `run` goes on behind it."""
        self._decide(step, approved=True, by=by, comment=comment)

    def reject(self, step: str, *, by: str = "rehearsal", comment: str = "") -> None:
        """Answer a question with no; what the next `run` does about it is up to the step's `onReject`."""
        self._decide(step, approved=False, by=by, comment=comment)

    def expire(self, step: str) -> None:
        """Let the deadline of a question pass."""
        self._keep(self.asks.pop(step), settle_unanswered(RunState.WAITING, step))

    def _decide(self, step: str, *, approved: bool, by: str, comment: str) -> None:
        ask, now = self.asks.pop(step), datetime.now(UTC)
        said = Decision(
            namespace="rehearsal",
            run=RunId("rehearsal"),
            step=step,
            approved=approved,
            actor=by,
            comment=comment,
        )
        deadline = now + timedelta(seconds=ask.deadline_seconds)
        asked = Question(run_state=RunState.WAITING, deadline_at=deadline, on_reject=ask.on_reject)
        self._keep(ask, settle(asked, said, now))

    def _keep(self, ask: Ask, settled: Settled | None) -> None:
        if settled is None:
            return
        output = msgspec.Raw(msgspec.json.encode(settled.output))
        self.records[ask.step] = StepRecord(
            name=ask.step,
            state=settled.step_state,
            output=output,
            reason=settled.reason,
            message=settled.message,
        )
        if settled.step_state == "succeeded":
            self.steps[ask.step] = msgspec.json.decode(output)

    def run(self) -> Any:  # noqa: ANN401 - what the template's output is
        """Play one attempt of the run, and return its output.

        Raises:
            StepFailed: the run would be dead; OutcomeUnknown if it would be ambiguous.
            WaitsForApproval: nothing can go on before a question is answered.
            WorkerDied: where `die_after` or `die_in` says.
        """
        self.attempt += 1
        finish = asyncio.run(self._play(self._agent()))
        if finish.outcome == "succeeded":
            return msgspec.json.decode(finish.output)
        if finish.outcome == "waiting":
            self.asks = {ask.step: ask for ask in finish.asks}
            raise WaitsForApproval(finish.message)
        if finish.outcome == "ambiguous":
            raise OutcomeUnknown(finish.message)
        raise StepFailed(finish.message, Reason(finish.reason))

    async def _play(self, agent: Agent) -> Finish:
        expressions = Expressions(Languages())
        steps = Steps(
            expressions=expressions,
            outbound=_World(self, agent),
            credentials=_NoCredentials(),
            children=None if self.instances is None else _Others(self.instances),
        )
        doing = Doing(runner=steps, expressions=expressions, figures=_NoFigures(), sleep=_no_pause)
        assignment = Assignment(
            run="rehearsal",
            fence=self.attempt,
            attempt=self.attempt,
            input=msgspec.Raw(msgspec.json.encode(self.input)),
            request_id="rehearsal",
            seconds_left=_FOREVER,
            lease_seconds=30,
            steps=tuple(KeptStep(**msgspec.structs.asdict(one)) for one in self.records.values()),
        )
        return await execute_run(assignment, _Journal(self), agent=agent, doing=doing)

    def _agent(self) -> Agent:
        return Agent(
            namespace="rehearsal",
            instance="rehearsal",
            revision="rehearsal",
            spec=msgspec.convert(self._spec(), AgentSpec),
            config=self.config,
            slots={},
            internal_hosts=frozenset(self.internal_hosts),
        )

    def _spec(self) -> Any:  # noqa: ANN401 - as the author wrote it
        if isinstance(self.template, Mapping):
            return self.template
        for document in documents(Path(self.template).read_text(encoding="utf-8")):
            if document.value.get("kind") in {"AgentTemplate", "ClusterAgentTemplate"}:
                return document.value["spec"]
        raise ValueError(f"{self.template} has no AgentTemplate")


class _Journal:
    """Keeps checkpoints, and dies where the rehearsal says."""

    def __init__(self, rehearsal: TemplateRehearsal) -> None:
        self._rehearsal = rehearsal

    def note(self, record: StepRecord) -> None:
        it = self._rehearsal
        it.records[record.name] = record
        if record.state == "started":
            if it.die_in == record.name:
                it.die_in = None
                raise WorkerDied(record.name)
            return
        if record.state != "failed":
            it.steps[record.name] = msgspec.json.decode(record.output)
        if it.die_after == record.name:
            it.die_after = None
            raise WorkerDied(record.name)

    async def commit(self, record: StepRecord) -> None:
        self.note(record)

    def log(self, level: str, message: str, step: str = "") -> None:
        self._rehearsal.lines.append((level, f"{step}: {message}" if step else message))


class _World:
    """Answers calls with what the test says; hosts are held against the template's list."""

    def __init__(self, rehearsal: TemplateRehearsal, agent: Agent) -> None:
        self._rehearsal = rehearsal
        self._tools = [
            tool
            for step in agent.spec.steps
            for inner in (step, *(step.for_each.steps if step.for_each else ()))
            for server in (inner.agent.mcp_servers if inner.agent else ())
            for tool in server.tools
        ]
        self._policy = Policy(egress=agent.spec.egress.hosts, internal_hosts=agent.internal_hosts, slots={})

    async def send(self, call: Call) -> Answer:
        self._policy.target(call.url)
        it = self._rehearsal
        if it.model is not None and call.url.endswith("/chat/completions"):
            return _said(it.model(msgspec.json.decode(call.content or b"")["messages"]))
        if it.mcp is not None and b'"jsonrpc"' in (call.content or b""):
            return _served(msgspec.json.decode(call.content or b""), it.mcp, self._tools)
        if it.http is None:
            raise StepFailed(f"the rehearsal has nothing to answer {call.method} {call.url} with")
        return _answer(it.http(_request(call)))


def _request(call: Call) -> Request:
    return Request(
        method=call.method,
        url=call.url,
        headers={name.lower(): value for name, value in call.headers},
        content=call.content,
        credential=call.credential,
        max_bytes=call.max_bytes,
        timeout_seconds=call.timeout_seconds,
    )


def _answer(given: object) -> Answer:
    if isinstance(given, Response):
        return Answer(status=given.status, headers=given.headers, body=given.content)
    if isinstance(given, str):
        return Answer(status=200, headers={"content-type": "text/plain"}, body=given.encode())
    return _json(given)


def _json(value: object, status: int = 200) -> Answer:
    headers = {"content-type": "application/json"}
    return Answer(status=status, headers=headers, body=msgspec.json.encode(value))


def _said(given: object) -> Answer:
    message: dict[str, object] = {"role": "assistant"}
    if isinstance(given, Use):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(use, Use) for use in given):
        message["tool_calls"] = [_wanted(number, use) for number, use in enumerate(given)]
    else:
        message["content"] = given if isinstance(given, str) else msgspec.json.encode(given).decode()
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    return _json({"model": "rehearsal", "choices": [{"message": message}], "usage": usage})


def _wanted(number: int, use: Use) -> dict[str, object]:
    function = {"name": use.tool, "arguments": msgspec.json.encode(use.arguments).decode()}
    return {"id": f"call_{number}", "type": "function", "function": function}


class _Others:
    """Runs of other instances, over as soon as they are asked for."""

    def __init__(self, answer: Callable[[str, dict[str, Any]], Any]) -> None:
        self._answer = answer

    async def child(self, request: ChildRequest) -> ChildReply:
        output = self._answer(request.instance, msgspec.json.decode(request.input))
        raw = msgspec.Raw(msgspec.json.encode(output))
        return ChildReply(run=f"rehearsal/{request.step}", state="succeeded", is_over=True, output=raw)


def _served(
    message: dict[str, Any], mcp: Callable[[str, dict[str, Any]], Any], tools: Sequence[str]
) -> Answer:
    if "id" not in message:
        return _json(None, 202)
    if message["method"] == "initialize":
        result: object = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {}}
    elif message["method"] == "tools/list":
        result = {"tools": [{"name": tool, "inputSchema": {"type": "object"}} for tool in tools]}
    else:
        given = mcp(message["params"]["name"], message["params"]["arguments"])
        result = (
            {"content": [{"type": "text", "text": given}]}
            if isinstance(given, str)
            else {"structuredContent": given}
        )
    return _json({"jsonrpc": "2.0", "id": message["id"], "result": result})


class _NoCredentials:
    """Rehearsed calls carry no credential."""

    async def lease(self, slot: str) -> CredentialLease:
        raise StepFailed(f"credential slot {slot} is not bound in a rehearsal")

    def redact(self, text: str) -> str:
        return text


class _NoFigures:
    """Counts nothing."""

    def enter_run(self, run: str, request_id: str, attempt: int) -> None: ...

    def run_ended(self, outcome: str, seconds: float) -> None: ...

    def step_ended(self, kind: str, state: str, seconds: float) -> None: ...

    def holding(self, running: int, waiting: int) -> None: ...

    def gateway_called(self, call: str, outcome: str, seconds: float) -> None: ...


async def _no_pause(_: float) -> None:
    await asyncio.sleep(0)
