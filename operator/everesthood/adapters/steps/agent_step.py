"""The agent step: a model in a tool loop, in which each turn and each tool call is a checkpoint.

A turn is `<step>/turn1`, a tool call of it `<step>/turn1/call1`; no author's name has a slash.
"""

import time
from typing import Any, Final

import msgspec

from everesthood.adapters.steps.agent_tools import ToolBox, Ways
from everesthood.adapters.steps.calls import idempotency_key
from everesthood.adapters.steps.llm_step import LlmRunner, Question, ToolCall, Turn
from everesthood.apis.reasons import Reason
from everesthood.apis.wire import StepRecord
from everesthood.domain.errors import EveresthoodError, ExpressionFailed, StepFailed
from everesthood.domain.steps import AgentStep
from everesthood.usecases.execute_step import encoded
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Credentials, Scope

MAX_CALLS: Final = 20
"""Tool calls of one turn."""
_MAX_CONVERSATION: Final = 2_097_152


class AgentRunner:
    """Lets models work."""

    def __init__(
        self, expressions: Expressions, llm: LlmRunner, ways: Ways, credentials: Credentials
    ) -> None:
        """Ask through `llm`, call tools in their `ways`."""
        self._expressions = expressions
        self._llm = llm
        self._ways = ways
        self._credentials = credentials

    async def run(self, scope: Scope, step: AgentStep) -> object:
        """Return {content, usage: {inputTokens, outputTokens}, model, turns}."""
        texts = {
            field: await self._text(getattr(step, field), scope, field)
            for field in ("endpoint", "model", "instructions", "prompt")
        }
        tools = ToolBox(scope, step, self._expressions, self._ways, self._credentials)
        return await _Talk(scope, step, texts, self._llm, tools).run()

    async def _text(self, text: str, scope: Scope, field: str) -> str:
        try:
            return await self._expressions.render(text, scope.variables)
        except EveresthoodError as error:
            raise ExpressionFailed(f"{field}: {error.message}") from None


class _Talk:
    """One conversation, from its last checkpoint."""

    def __init__(
        self, scope: Scope, step: AgentStep, texts: dict[str, str], llm: LlmRunner, tools: ToolBox
    ) -> None:
        self._scope = scope
        self._step = step
        self._texts = texts
        self._llm = llm
        self._tools = tools
        self._input_tokens = 0
        self._output_tokens = 0
        self._messages: list[dict[str, Any]] = [
            {"role": "system", "content": texts["instructions"]},
            {"role": "user", "content": texts["prompt"]},
        ]

    async def run(self) -> object:
        """Return the final answer."""
        for number in range(1, self._step.max_turns + 1):
            turn = await self._turn(f"{self._scope.step.name}/turn{number}")
            self._input_tokens += turn.input_tokens
            self._output_tokens += turn.output_tokens
            if not turn.tool_calls:
                return self._answer(turn, number)
            self._check_turns(number)
            await self._follow(turn, f"{self._scope.step.name}/turn{number}")
        raise AssertionError  # the last turn either answers or fails

    async def _turn(self, name: str) -> Turn:
        past = self._scope.earlier.get(name)
        if past is not None and past.state == "succeeded":
            return msgspec.json.decode(past.output, type=Turn)
        self._check_size()
        self._tools.check_open()
        began = time.time()
        turn = await self._llm.turn(await self._question(name))
        if len(turn.tool_calls) > MAX_CALLS:
            said = f"the model wants {len(turn.tool_calls)} tool calls in one turn, the most is {MAX_CALLS}"
            raise StepFailed(said, Reason.OUTPUT_INVALID, transient=True)
        raw = encoded(turn, "what the model says")
        record = StepRecord(
            name=name, state="succeeded", output=raw, started_at=began, finished_at=time.time()
        )
        return msgspec.json.decode((await self._tools.keep(record)).output, type=Turn)

    def _check_turns(self, number: int) -> None:
        """Fail before tools are called whose answers no turn would read."""
        used = self._input_tokens + self._output_tokens
        if used >= self._step.max_tokens:
            said = f"it used {used} tokens without coming to an end, maxTokens is {self._step.max_tokens}"
            raise StepFailed(said)
        if number == self._step.max_turns:
            raise StepFailed(f"the model gave no final answer in {number} turns, which is maxTurns")

    def _check_size(self) -> None:
        if len(msgspec.json.encode(self._messages)) > _MAX_CONVERSATION:
            said = f"the conversation is larger than {_MAX_CONVERSATION} bytes"
            raise StepFailed(said, Reason.OUTPUT_TOO_LARGE)

    async def _question(self, name: str) -> Question:
        return Question(
            endpoint=self._texts["endpoint"],
            model=self._texts["model"],
            messages=self._messages,
            credential=self._step.credential,
            timeout_seconds=self._scope.step.timeout_seconds,
            idempotency_key=idempotency_key(self._scope.run, name),
            tools=await self._tools.offered(),
        )

    async def _follow(self, turn: Turn, name: str) -> None:
        """Make the calls that a turn asks for, one after another, and tell the model what came of them."""
        self._messages.append(
            {
                "role": "assistant",
                "content": turn.content or None,
                "tool_calls": [_as_asked(call) for call in turn.tool_calls],
            }
        )
        for position, call in enumerate(turn.tool_calls, 1):
            said = await self._tools.call(f"{name}/call{position}", call)
            self._messages.append({"role": "tool", "tool_call_id": call.id, "content": said})

    def _answer(self, turn: Turn, turns: int) -> object:
        return {
            "content": turn.content,
            "usage": {"inputTokens": self._input_tokens, "outputTokens": self._output_tokens},
            "model": turn.model,
            "turns": turns,
        }


def _as_asked(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
