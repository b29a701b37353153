"""The mcp step: one tool call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

import msgspec

from everesthood.adapters.steps.calls import idempotency_key
from everesthood.adapters.steps.mcp_session import McpSession, ToolInfo
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, ExpressionFailed, StepFailed
from everesthood.domain.steps import McpServer, McpStep
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Outbound, Scope

_SHOWN: Final = 700


class _Part(msgspec.Struct):
    """A piece of content; pictures and sounds have no text."""

    type: str = ""
    text: str | None = None
    resource: dict[str, Any] | None = None


class _Result(msgspec.Struct, rename="camel"):
    content: list[_Part] = []
    structured_content: dict[str, Any] | None = None
    is_error: bool = False


class McpRunner:
    """Calls tools."""

    def __init__(self, expressions: Expressions, outbound: Outbound) -> None:
        """Call through `outbound`."""
        self._expressions = expressions
        self._outbound = outbound
        self._goodbyes: set[asyncio.Task[None]] = set()

    async def run(self, scope: Scope, step: McpStep) -> object:
        """Return the tool's structured content, or else its text."""
        return await self.call(scope, step, await self._arguments(scope, step))

    async def call(self, scope: Scope, step: McpStep, arguments: Mapping[str, object]) -> object:
        """Call the tool with these arguments."""
        async with self._session(scope, step) as session:
            key = idempotency_key(scope.run, scope.step.name)
            return _output(step, await session.call(step.tool, arguments, key), scope)

    async def tools(self, scope: Scope, server: McpServer) -> dict[str, ToolInfo]:
        """Return the tools that a server offers, by name."""
        async with self._session(scope, server) as session:
            return await session.tools()

    @contextlib.asynccontextmanager
    async def _session(self, scope: Scope, at: McpStep | McpServer) -> AsyncIterator[McpSession]:
        session = McpSession(
            self._outbound,
            await self._url(scope, at.url),
            credential=at.credential,
            timeout_seconds=scope.step.timeout_seconds,
            may_repeat=scope.step.may_repeat,
        )
        try:
            await session.open()
            yield session
        finally:
            self._say_goodbye(session)

    async def _url(self, scope: Scope, url: str) -> str:
        try:
            return await self._expressions.render(url, scope.variables)
        except EveresthoodError as error:
            raise ExpressionFailed(f"url: {error.message}") from None

    async def _arguments(self, scope: Scope, step: McpStep) -> Mapping[str, object]:
        if step.arguments is None:
            return {}
        try:
            value = await self._expressions.evaluate(step.arguments, scope.variables)
        except ExpressionFailed as error:
            raise ExpressionFailed(f"arguments: {error.message}") from None
        if not isinstance(value, dict):
            raise ExpressionFailed("arguments: the value is not an object")
        return value

    def _say_goodbye(self, session: McpSession) -> None:
        """End the session aside: a server that is slow to forget must not cost a call that was made."""
        if not session.has_session:
            return
        task = asyncio.create_task(_closed(session))
        self._goodbyes.add(task)
        task.add_done_callback(self._goodbyes.discard)


async def _closed(session: McpSession) -> None:
    with contextlib.suppress(StepFailed):  # it forgets by itself, in time
        await session.close()


def _output(step: McpStep, given: dict[str, Any], scope: Scope) -> object:
    try:
        result = msgspec.convert(given, _Result)
    except msgspec.ValidationError:
        raise StepFailed(
            f"tool {step.tool} gives what is no result of a tool", Reason.OUTPUT_INVALID
        ) from None
    text = "\n".join(found for part in result.content if (found := _text(part)) is not None)
    if result.is_error:
        said = f"tool {step.tool} failed: {text[:_SHOWN] or 'it does not say why'}"
        raise StepFailed(said, transient=scope.step.may_repeat)
    return text if result.structured_content is None else result.structured_content


def _text(part: _Part) -> str | None:
    if part.text is not None:
        return part.text
    text = (part.resource or {}).get("text")
    return text if isinstance(text, str) else None
