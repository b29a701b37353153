"""The llm step: one call of an OpenAI-compatible model."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from everesthood.adapters.steps.calls import IDEMPOTENCY_HEADER, idempotency_key, refused
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, ExpressionFailed, StepFailed
from everesthood.domain.steps import LlmStep
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Answer, Call, Outbound, Scope

_MAX_BYTES: Final = 1_048_576
_OK: Final = 200
_BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model call with everything filled in."""

    endpoint: str
    model: str
    messages: Sequence[Mapping[str, object]]
    credential: str | None = None
    output_schema: Mapping[str, object] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    timeout_seconds: float = 300.0
    idempotency_key: str = ""
    may_repeat: bool = True
    tools: Sequence[Mapping[str, object]] = ()


class _Function(msgspec.Struct):
    name: str = ""
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    id: str = ""
    function: _Function = msgspec.field(default_factory=_Function)


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None


class ToolCall(msgspec.Struct, frozen=True, rename="camel"):
    """What a model wants to be called."""

    id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class Turn(msgspec.Struct, frozen=True, rename="camel"):
    """What a model said: words, or tools to call."""

    content: str
    tool_calls: tuple[ToolCall, ...]
    model: str
    input_tokens: int
    output_tokens: int


class LlmRunner:
    """Asks."""

    def __init__(self, expressions: Expressions, outbound: Outbound) -> None:
        """Ask through `outbound`."""
        self._expressions = expressions
        self._outbound = outbound

    async def run(self, scope: Scope, step: LlmStep) -> object:
        """Return {content, usage: {inputTokens, outputTokens}, model}."""
        messages = [
            {"role": m.role, "content": await self._text(m.content, scope, f"messages[{n}].content")}
            for n, m in enumerate(step.messages)
        ]
        question = Question(
            endpoint=await self._text(step.endpoint, scope, "endpoint"),
            model=await self._text(step.model, scope, "model"),
            messages=messages,
            credential=step.credential,
            output_schema=step.output_schema,
            max_tokens=step.max_tokens,
            temperature=None if step.temperature is None else float(step.temperature),
            timeout_seconds=scope.step.timeout_seconds,
            idempotency_key=idempotency_key(scope.run, scope.step.name),
            may_repeat=scope.step.may_repeat,
        )
        return await self.ask(question)

    async def ask(self, question: Question) -> dict[str, object]:
        """Make the call, and hold the answer against the schema."""
        completion = await self._completion(question)
        content: object = _text_of(completion)
        if question.output_schema is not None:
            content = await self._matched(str(content), question.output_schema)
        usage = completion.usage or _Usage()
        return {
            "content": content,
            "usage": {"inputTokens": usage.prompt_tokens, "outputTokens": usage.completion_tokens},
            "model": completion.model or question.model,
        }

    async def turn(self, question: Question) -> Turn:
        """Make the call, and return what the model says or wants to be called."""
        completion = await self._completion(question)
        content = _text_of(completion)
        usage = completion.usage or _guessed(question, content)
        return Turn(
            content=content,
            tool_calls=tuple(_tool_calls(completion.choices[0].message)),
            model=completion.model or question.model,
            input_tokens=max(0, usage.prompt_tokens),
            output_tokens=max(0, usage.completion_tokens),
        )

    async def _completion(self, question: Question) -> _Completion:
        answer = await self._outbound.send(_call(question))
        if answer.status != _OK:
            host = urlsplit(question.endpoint).hostname or ""
            raise refused(
                answer,
                f"the model at {host}",
                may_repeat=question.may_repeat,
                credential=question.credential,
            )
        return _completion(answer)

    async def _matched(self, text: str, schema: Mapping[str, object]) -> object:
        # Another try may bring a better answer: what a model says is not decided once and for all.
        try:
            value = msgspec.json.decode(_unfenced(text))
        except (msgspec.DecodeError, RecursionError):
            raise StepFailed(
                "the model's answer is not JSON", Reason.OUTPUT_INVALID, transient=True
            ) from None
        problems = await self._expressions.problems(schema, value)
        if problems:
            where, what = problems[0]
            said = f"the model's answer does not match outputSchema: {where or '/'}: {what}"
            raise StepFailed(said, Reason.OUTPUT_INVALID, transient=True)
        return value

    async def _text(self, text: str, scope: Scope, field: str) -> str:
        try:
            return await self._expressions.render(text, scope.variables)
        except EveresthoodError as error:
            raise ExpressionFailed(f"{field}: {error.message}") from None


def _call(question: Question) -> Call:
    body: dict[str, Any] = {"model": question.model, "messages": question.messages}
    if question.max_tokens is not None:
        body["max_tokens"] = question.max_tokens
    if question.temperature is not None:
        body["temperature"] = question.temperature
    if question.output_schema is not None:
        named = {"name": "answer", "schema": question.output_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    if question.tools:
        body["tools"] = question.tools
    return Call(
        method="POST",
        url=question.endpoint.rstrip("/") + "/chat/completions",
        headers=(
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            (IDEMPOTENCY_HEADER, question.idempotency_key),
        ),
        content=msgspec.json.encode(body),
        credential=question.credential,
        max_bytes=_MAX_BYTES,
        timeout_seconds=question.timeout_seconds,
        follow_redirects=False,
    )


def _completion(answer: Answer) -> _Completion:
    try:
        return msgspec.json.decode(answer.body, type=_Completion)
    except (msgspec.DecodeError, RecursionError):
        said = "the endpoint's answer is not an OpenAI-compatible chat completion"
        raise StepFailed(said, Reason.OUTPUT_INVALID) from None


def _text_of(completion: _Completion) -> str:
    if not completion.choices:
        raise StepFailed("the model gave no answer", Reason.OUTPUT_INVALID, transient=True)
    choice = completion.choices[0]
    if choice.message.refusal:
        raise StepFailed("the model refused to answer")
    if choice.finish_reason == "length":
        raise StepFailed("the model's answer was cut off; raise maxTokens", Reason.OUTPUT_INVALID)
    return choice.message.content or ""


def _tool_calls(message: _Message) -> Iterator[ToolCall]:
    for index, call in enumerate(message.tool_calls or ()):
        given = call.function.arguments or ""
        arguments = given if isinstance(given, str) else msgspec.json.encode(given).decode()
        yield ToolCall(id=call.id or f"call_{index}", name=call.function.name, arguments=arguments)


def _guessed(question: Question, content: str) -> _Usage:
    """Return about what a call used where the endpoint does not say: four bytes a token."""
    asked = len(msgspec.json.encode(question.messages)) // _BYTES_PER_TOKEN
    return _Usage(prompt_tokens=asked, completion_tokens=len(content.encode()) // _BYTES_PER_TOKEN)


def _unfenced(text: str) -> str:
    """Return JSON without the Markdown fence that some models put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text.partition("\n")[2].rpartition("```")[0]
    return text
