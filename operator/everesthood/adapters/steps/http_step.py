"""The http step: one call through the guarded client."""

from typing import Final
from urllib.parse import urlsplit

import msgspec

from everesthood.adapters.steps.calls import IDEMPOTENCY_HEADER, idempotency_key, refused
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, ExpressionFailed, StepFailed
from everesthood.domain.steps import HttpStep
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Answer, Call, Outbound, Scope

_READS: Final = frozenset({"GET", "HEAD"})
_SECRET_ANSWERS: Final = frozenset({"set-cookie", "set-cookie2"})


class HttpRunner:
    """Calls."""

    def __init__(self, expressions: Expressions, outbound: Outbound) -> None:
        """Call through `outbound`."""
        self._expressions = expressions
        self._outbound = outbound

    async def run(self, scope: Scope, step: HttpStep) -> object:
        """Return {status, headers, body}."""
        call = await self._call(scope, step)
        answer = await self._outbound.send(call)
        if not _is_expected(answer.status, step.expect):
            host = urlsplit(call.url).hostname or ""
            raise refused(
                answer, f"{step.method} {host}", may_repeat=scope.step.may_repeat, credential=step.credential
            )
        return output_of(answer)

    async def exchange(self, scope: Scope, step: HttpStep) -> Answer:
        """Make the call and return the answer, whatever its status."""
        return await self._outbound.send(await self._call(scope, step))

    async def _call(self, scope: Scope, step: HttpStep) -> Call:
        headers = [(h.name, await self._text(h.value, scope, f"header {h.name}")) for h in step.headers]
        content, content_type = await self._content(scope, step)
        given = {name.lower() for name, _ in headers}
        if content_type and "content-type" not in given:
            headers.append(("Content-Type", content_type))
        if step.method not in _READS and IDEMPOTENCY_HEADER.lower() not in given:
            headers.append((IDEMPOTENCY_HEADER, idempotency_key(scope.run, scope.step.name)))
        return Call(
            method=step.method,
            url=await self._text(step.url, scope, "url"),
            headers=tuple(headers),
            content=content,
            credential=step.credential,
            max_bytes=step.max_bytes,
            timeout_seconds=scope.step.timeout_seconds,
            follow_redirects=not any(300 <= status < 400 for status in step.expect),  # noqa: PLR2004
        )

    async def _content(self, scope: Scope, step: HttpStep) -> tuple[bytes | None, str]:
        if step.json_body is not None:
            try:
                value = await self._expressions.evaluate(step.json_body, scope.variables)
            except ExpressionFailed as error:
                raise ExpressionFailed(f"json: {error.message}") from None
            return msgspec.json.encode(value), "application/json"
        if step.body is not None:
            return (await self._text(step.body, scope, "body")).encode(), "text/plain; charset=utf-8"
        return None, ""

    async def _text(self, text: str, scope: Scope, field: str) -> str:
        try:
            return await self._expressions.render(text, scope.variables)
        except EveresthoodError as error:
            raise ExpressionFailed(f"{field}: {error.message}") from None


def _is_expected(status: int, expect: tuple[int, ...]) -> bool:
    return status in expect if expect else 200 <= status < 300  # noqa: PLR2004 - any success


def output_of(answer: Answer) -> dict[str, object]:
    """Return an answer as steps and code see it."""
    headers = {name: value for name, value in answer.headers.items() if name not in _SECRET_ANSWERS}
    return {"status": answer.status, "headers": headers, "body": body_of(answer)}


def body_of(answer: Answer) -> object:
    """Return the body: a JSON value if the answer says that it is JSON, else text."""
    kind, _, parameters = answer.headers.get("content-type", "").partition(";")
    kind = kind.strip().lower()
    if answer.body and (kind == "application/json" or kind.endswith("+json")):
        try:
            return msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, RecursionError):
            raise StepFailed("the answer says that it is JSON but is not", Reason.OUTPUT_INVALID) from None
    return answer.body.decode(_charset(parameters), errors="replace")


def _charset(parameters: str) -> str:
    _, _, name = parameters.lower().partition("charset=")
    name = name.partition(";")[0].strip(" \"'")
    try:
        "".encode(name or "utf-8")
    except (LookupError, ValueError):
        return "utf-8"
    return name or "utf-8"
