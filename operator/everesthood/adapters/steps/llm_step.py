"""The llm step: one call of an OpenAI-compatible model."""

from collections.abc import Mapping, Sequence
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


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


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
        answer = await self._outbound.send(_call(question))
        host = urlsplit(question.endpoint).hostname or ""
        if answer.status != _OK:
            raise refused(answer, f"the model at {host}", may_repeat=question.may_repeat)
        completion = _completion(answer)
        content: object = _text_of(completion)
        if question.output_schema is not None:
            content = await self._matched(str(content), question.output_schema)
        usage = completion.usage or _Usage()
        return {
            "content": content,
            "usage": {"inputTokens": usage.prompt_tokens, "outputTokens": usage.completion_tokens},
            "model": completion.model or question.model,
        }

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


def _unfenced(text: str) -> str:
    """Return JSON without the Markdown fence that some models put around it."""
    text = text.strip()
    if text.startswith("```") and text.endswith("```"):
        return text.partition("\n")[2].rpartition("```")[0]
    return text
