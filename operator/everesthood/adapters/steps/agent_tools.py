"""The tools of an agent step: HTTP calls, tools of MCP servers and runs of other agents.

What a call comes to is told to the model, failures too, so that it can do better. Only what a person
must look at ends the step: a call that may have taken effect, and a credential that is not there.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from everesthood.adapters.steps.calls import UNKNOWN, refused
from everesthood.adapters.steps.child_runs import ChildRuns
from everesthood.adapters.steps.http_step import HttpRunner, body_of
from everesthood.adapters.steps.llm_step import ToolCall
from everesthood.adapters.steps.mcp_session import ToolInfo
from everesthood.adapters.steps.mcp_step import McpRunner
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import StepRecord
from everesthood.domain.errors import ExpressionFailed, KeyHeld, OutcomeUnknown, StepFailed
from everesthood.domain.graph import IN_DOUBT
from everesthood.domain.steps import AgentStep, AgentTool, HttpStep, McpServer, McpStep, Step
from everesthood.usecases.execute_step import encoded
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Credentials, Scope

MAX_RESULT: Final = 40_000
"""Characters of one answer that the model gets to see."""
_MAX_DESCRIPTION: Final = 2_000
_MAX_SCHEMA: Final = 16_384
"""Of what a server says of one tool: every turn carries it."""
_FOR_THE_MODEL: Final = frozenset(
    {Reason.STEP_FAILED, Reason.STEP_TIMED_OUT, Reason.HOST_REFUSED, Reason.ADDRESS_REFUSED,
     Reason.OUTPUT_INVALID, Reason.OUTPUT_TOO_LARGE, Reason.OUTCOME_UNKNOWN}
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """How each kind of tool is called."""

    http: HttpRunner
    mcp: McpRunner
    children: ChildRuns


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    """One tool that the model may call."""

    name: str
    does: HttpStep | McpStep | str
    """The call, or the instance that a run is started of."""
    parameters: dict[str, object] | None
    """What the arguments are checked against; None leaves it to the server."""

    def as_step(self, name: str, scope: Scope) -> Step:
        """Return the call as a step, which says whether it may be repeated."""
        given = scope.step
        return Step(
            name=name,
            http=self.does if isinstance(self.does, HttpStep) else None,
            mcp=self.does if isinstance(self.does, McpStep) else None,
            timeout_seconds=given.timeout_seconds,
            # A run is asked for by the name of the call, so asking again starts no second one.
            idempotent=True if isinstance(self.does, str) else given.idempotent,
        )


class ToolBox:
    """What the model of one agent step may call, and the step's checkpoints."""

    def __init__(
        self,
        scope: Scope,
        step: AgentStep,
        expressions: Expressions,
        ways: Ways,
        credentials: Credentials,
    ) -> None:
        """Hold the tools of this step."""
        self._scope = scope
        self._step = step
        self._tools = {tool.name: tool for tool in (*map(_own, step.tools), *_of_servers(step))}
        self._expressions = expressions
        self._ways = ways
        self._credentials = credentials
        self._offered: list[dict[str, object]] | None = None
        self._promised: dict[str, dict[str, object]] = {}
        """Tools of MCP servers, each with the schema that its server gave for what it answers."""

    async def offered(self) -> list[dict[str, object]]:
        """Return the tools as a model reads them; MCP servers are asked once, before the first new turn."""
        if self._offered is None:
            found = [_function(tool.name, tool.description, tool.parameters) for tool in self._step.tools]
            for server in self._step.mcp_servers:
                listed = await self._ways.mcp.tools(self._scope, server)
                found += [_of_server(server, tool, listed) for tool in server.tools]
                for tool in server.tools:
                    schema = listed[tool].output_schema
                    # What no template may say (patterns that run for ever) is not run for a server either.
                    if schema is not None and not await self._expressions.schema_problems(schema):
                        self._promised[server.offered(tool)] = schema
            self._offered = found
        return self._offered

    async def call(self, name: str, asked: ToolCall) -> str:
        """Return what the model is told, from the checkpoint of that name where there is one."""
        past = self._scope.earlier.get(name)
        if past is not None and past.state == "succeeded":
            return msgspec.json.decode(past.output, type=str)
        self.check_open()
        began = time.time()
        try:
            told = await self._told(name, asked, past)
        except (StepFailed, ExpressionFailed) as error:
            if error.reason not in _FOR_THE_MODEL or self._is_in_doubt(name, error):
                raise
            told = f"error: {error.message}"
        raw = encoded(_cut(self._credentials.redact(told)), "the answer to the model")
        record = StepRecord(
            name=name, state="succeeded", output=raw, started_at=began, finished_at=time.time()
        )
        await self.keep(record)
        self._scope.course.critical.discard(name)
        return msgspec.json.decode(raw, type=str)

    async def keep(self, record: StepRecord) -> StepRecord:
        """Make a checkpoint without any credential in it, durably."""
        clean = self._credentials.redact(bytes(record.output).decode()).encode()
        kept = msgspec.structs.replace(record, output=msgspec.Raw(clean))
        await self._scope.journal.commit(kept)
        self._scope.earlier[kept.name] = kept
        return kept

    def check_open(self) -> None:
        """End where another step of the run has failed: nothing more is begun."""
        if self._scope.course.closing.done():
            raise asyncio.CancelledError

    def _is_in_doubt(self, name: str, error: StepFailed | ExpressionFailed) -> bool:
        return isinstance(error, OutcomeUnknown) and name in self._scope.course.critical

    async def _told(self, name: str, asked: ToolCall, past: StepRecord | None) -> str:
        tool = self._tools.get(asked.name)
        if tool is None:
            known = ", ".join(self._tools) or "none at all"
            raise StepFailed(f"there is no tool {asked.name[:100]}; there are {known}")
        args = await self._arguments(tool, asked)
        step = tool.as_step(name, self._scope)
        if not step.may_repeat:
            await self._announce(name, tool, past)
        scope = replace(self._scope, step=step, variables={**self._scope.variables, "args": args})
        return await self._answered(scope, tool, args)

    async def _arguments(self, tool: _Tool, asked: ToolCall) -> dict[str, object]:
        try:
            args = msgspec.json.decode(asked.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            raise StepFailed("the arguments are not JSON") from None
        if not isinstance(args, dict):
            raise StepFailed("the arguments are not an object")
        if tool.parameters is None:
            return args
        problems = await self._expressions.problems({"type": "object", **tool.parameters}, args)
        if problems:
            where, what = problems[0]
            raise StepFailed(f"the arguments do not match the parameters: {where or '/'}: {what}")
        return args

    async def _announce(self, name: str, tool: _Tool, past: StepRecord | None) -> None:
        self._scope.course.critical.add(name)
        if past is not None and past.state == "started":
            raise OutcomeUnknown(f"tool {tool.name}: {IN_DOUBT}")
        await self._scope.journal.commit(StepRecord(name=name, state="started", started_at=time.time()))

    async def _withdraw(self, step: Step, held: KeyHeld) -> None:
        """Say of a call that was announced that it did not happen."""
        if step.may_repeat:
            return
        record = StepRecord(name=step.name, state="failed", reason=held.reason, finished_at=time.time())
        await self._scope.journal.commit(record)
        self._scope.earlier[step.name] = record
        self._scope.course.critical.discard(step.name)

    async def _keep_promise(self, tool: _Tool, answered: object) -> None:
        """Hold structured content against the schema that the server gave for it, if it gave one."""
        problems = await self._expressions.problems(self._promised.get(tool.name, {}), answered)
        if problems:
            where, what = problems[0]
            said = f"tool {tool.name} was called, and what it gave does not match its outputSchema"
            raise StepFailed(f"{said}: {where or '/'}: {what}", Reason.OUTPUT_INVALID)

    async def _answered(self, scope: Scope, tool: _Tool, args: dict[str, object]) -> str:
        try:
            return await self._made(scope, tool, args)
        except KeyHeld as error:
            await self._withdraw(scope.step, error)
            raise

    async def _made(self, scope: Scope, tool: _Tool, args: dict[str, object]) -> str:
        match tool.does:
            case HttpStep() as http:
                with _told_of(tool):
                    answer = await self._ways.http.exchange(scope, http)
                if answer.status in UNKNOWN:
                    raise OutcomeUnknown(refused(answer, f"tool {tool.name}", may_repeat=False).message)
                return _json({"status": answer.status, "body": body_of(answer)})
            case McpStep() as mcp:
                with _told_of(tool):
                    answered = await self._ways.mcp.call(scope, mcp, args)
                if isinstance(answered, str):
                    return answered
                await self._keep_promise(tool, answered)
                return _json(answered)
            case instance:
                return _json(await self._ways.children.output(scope, instance, args))


@contextmanager
def _told_of(tool: _Tool) -> Iterator[None]:
    """Name the tool of a call that nobody knows the outcome of: a person decides, no retry."""
    try:
        yield
    except OutcomeUnknown as error:
        raise OutcomeUnknown(f"tool {tool.name}: {error.message}") from None


def _own(tool: AgentTool) -> _Tool:
    does = tool.http if tool.http is not None else tool.instance
    assert does is not None  # noqa: S101 - admission saw that one of them is set
    return _Tool(name=tool.name, does=does, parameters=tool.parameters)


def _of_servers(step: AgentStep) -> list[_Tool]:
    return [
        _Tool(
            name=server.offered(tool),
            does=McpStep(url=server.url, tool=tool, credential=server.credential),
            parameters=None,
        )
        for server in step.mcp_servers
        for tool in server.tools
    ]


def _of_server(server: McpServer, tool: str, listed: dict[str, ToolInfo]) -> dict[str, object]:
    """Return one of a server's tools as it is offered to the model, in bounds."""
    found = listed.get(tool)
    if found is None:
        there = ", ".join(sorted(listed))[:500] or "none at all"
        raise StepFailed(f"MCP server {server.name} has no tool {tool}; there are {there}")
    for what, schema in (("parameters", found.input_schema), ("results", found.output_schema)):
        size = len(msgspec.json.encode(schema))
        if size > _MAX_SCHEMA:
            said = f"MCP server {server.name} describes the {what} of {tool} in {size} bytes, the most is"
            raise StepFailed(f"{said} {_MAX_SCHEMA}", Reason.OUTPUT_TOO_LARGE)
    return _function(server.offered(tool), found.description[:_MAX_DESCRIPTION], found.input_schema)


def _function(name: str, description: str, parameters: dict[str, object]) -> dict[str, object]:
    function = {"name": name, "description": description, "parameters": {"type": "object", **parameters}}
    return {"type": "function", "function": function}


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _cut(text: str) -> str:
    return text if len(text) <= MAX_RESULT else f"{text[:MAX_RESULT]} … cut, it had {len(text)} characters"
