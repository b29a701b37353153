"""The tools of an agent step: HTTP calls that a model asks for.

What a call comes to is told to the model, failures too, so that it can do better. Only what a person
must look at ends the step: a call that may have taken effect, and a credential that is not there.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec

from everesthood.adapters.steps.calls import UNKNOWN, refused
from everesthood.adapters.steps.http_step import HttpRunner, body_of
from everesthood.adapters.steps.llm_step import ToolCall
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import StepRecord
from everesthood.domain.errors import ExpressionFailed, KeyHeld, OutcomeUnknown, StepFailed
from everesthood.domain.graph import IN_DOUBT
from everesthood.domain.steps import HttpTool, Step
from everesthood.usecases.execute_step import encoded
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Credentials, Scope

MAX_RESULT: Final = 40_000
"""Characters of one answer that the model gets to see."""
_FOR_THE_MODEL: Final = frozenset(
    {Reason.STEP_FAILED, Reason.STEP_TIMED_OUT, Reason.HOST_REFUSED, Reason.ADDRESS_REFUSED,
     Reason.OUTPUT_INVALID, Reason.OUTPUT_TOO_LARGE, Reason.OUTCOME_UNKNOWN}
)  # fmt: skip


class ToolBox:
    """What the model of one agent step may call, and the step's checkpoints."""

    def __init__(
        self,
        scope: Scope,
        tools: Sequence[HttpTool],
        expressions: Expressions,
        http: HttpRunner,
        credentials: Credentials,
    ) -> None:
        """Hold these tools."""
        self._scope = scope
        self._tools = {tool.name: tool for tool in tools}
        self._expressions = expressions
        self._http = http
        self._credentials = credentials
        self.offered = [_offered(tool) for tool in tools]
        """The tools as a model reads them."""

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
        step = Step(
            name=name,
            http=tool.http,
            timeout_seconds=self._scope.step.timeout_seconds,
            idempotent=self._scope.step.idempotent,
        )
        if not step.may_repeat:
            await self._announce(name, tool, past)
        scope = replace(self._scope, step=step, variables={**self._scope.variables, "args": args})
        return await self._answered(scope, tool)

    async def _arguments(self, tool: HttpTool, asked: ToolCall) -> object:
        try:
            args = msgspec.json.decode(asked.arguments or "{}")
        except (msgspec.DecodeError, RecursionError):
            raise StepFailed("the arguments are not JSON") from None
        if not isinstance(args, dict):
            raise StepFailed("the arguments are not an object")
        problems = await self._expressions.problems({"type": "object", **tool.parameters}, args)
        if problems:
            where, what = problems[0]
            raise StepFailed(f"the arguments do not match the parameters: {where or '/'}: {what}")
        return args

    async def _announce(self, name: str, tool: HttpTool, past: StepRecord | None) -> None:
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

    async def _answered(self, scope: Scope, tool: HttpTool) -> str:
        try:
            answer = await self._http.exchange(scope, tool.http)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"tool {tool.name}: {error.message}") from None  # a person decides
        except KeyHeld as error:
            await self._withdraw(scope.step, error)
            raise
        if answer.status in UNKNOWN:
            raise OutcomeUnknown(refused(answer, f"tool {tool.name}", may_repeat=False).message)
        told = {"status": answer.status, "body": body_of(answer)}
        return msgspec.json.encode(told).decode()


def _offered(tool: HttpTool) -> dict[str, object]:
    schema = {"type": "object", **tool.parameters}
    function = {"name": tool.name, "description": tool.description, "parameters": schema}
    return {"type": "function", "function": function}


def _cut(text: str) -> str:
    return text if len(text) <= MAX_RESULT else f"{text[:MAX_RESULT]} … cut, it had {len(text)} characters"
