"""`ctx.llm`: model calls of a code agent, as `llm` steps make them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict


class Message(TypedDict):
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One model call."""

    endpoint: str
    model: str
    messages: Sequence[Message]
    credential: str | None
    output_schema: Mapping[str, Any] | None
    max_tokens: int | None
    temperature: float | None
    timeout_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model said: text, or with an output schema a value that matches it."""

    content: Any
    model: str
    input_tokens: int
    output_tokens: int


class Llm:
    """Model calls: `answer = await ctx.llm("Sum this up: …", endpoint=…, model=…)`."""

    def __init__(self, ask: Callable[[Prompt], Awaitable[Answer]]) -> None:
        """Ask through this."""
        self._ask = ask

    async def __call__(  # noqa: PLR0913 - one keyword for each thing that a call can have
        self,
        messages: str | Sequence[Message],
        *,
        endpoint: str,
        model: str,
        credential: str | None = None,
        output_schema: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout_seconds: float = 120.0,
    ) -> Answer:
        """Ask an OpenAI-compatible model; a text alone is one message of the user.

        The tokens are counted in `ctx.usage` by themselves.

        Raises:
            StepFailed: refused, not reachable, or the answer does not match `output_schema`.
        """
        if isinstance(messages, str):
            messages = [Message(role="user", content=messages)]
        return await self._ask(
            Prompt(
                endpoint=endpoint,
                model=model,
                messages=messages,
                credential=credential,
                output_schema=output_schema,
                max_tokens=max_tokens,
                temperature=temperature,
                timeout_seconds=timeout_seconds,
            )
        )
