"""Test a code agent without a cluster: the same Context, with answers that the test gives.

    from everesthood.testing import Rehearsal

    def test_it_fetches_once() -> None:
        rehearsal = Rehearsal(input={"url": "https://example.com/"}, http=lambda request: "hello")

        assert rehearsal.run(main) == {"words": 1}
        assert rehearsal.steps == {"fetch": "hello"}

A second `run` of the same Rehearsal goes on from the checkpoints of the first, as a worker does
after another died; `die_before` ends the first one where you want it to die.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.sdk import Answer, Context, Credential, Prompt, Request, Response, Run
from everesthood.sdk.context import Level

T = TypeVar("T")

__all__ = ["Rehearsal", "WorkerDied"]


class WorkerDied(BaseException):
    """Raised out of `run` where the rehearsed worker dies; no `except Exception` of an agent stops it."""


@dataclass(kw_only=True)
class Rehearsal:
    """One run of a code agent, played through on the test's own machine.

    Attributes:
        http: answers each HTTP call: with a Response, a text, or a JSON value.
        llm: answers each model call: with an Answer, a text, or a JSON value.
        credentials: values of bound slots.
        die_before: name of the `ctx.step` before which the worker dies, once.
        die_in: name of the `ctx.step` after whose work, but before whose checkpoint, it dies, once.
    """

    input: Any = None
    config: Any = None
    args: Any = None
    http: Callable[[Request], Any] | None = None
    llm: Callable[[Prompt], Any] | None = None
    credentials: Mapping[str, str] = field(default_factory=dict)
    die_before: str | None = None
    die_in: str | None = None
    steps: dict[str, Any] = field(default_factory=dict)
    """Checkpoints, by name."""
    lines: list[tuple[str, str]] = field(default_factory=list)
    """The run's log: (level, message)."""
    usage: Counter[str] = field(default_factory=Counter)
    attempt: int = 0
    started: set[str] = field(default_factory=set)
    """Pieces with `idempotent=False` that began and did not end."""

    def run(self, function: Callable[[Context], Any]) -> Any:  # noqa: ANN401 - what the agent returns
        """Call the agent's function, as one attempt of the run, and return its output."""
        return asyncio.run(self.run_async(function))

    async def run_async(self, function: Callable[[Context], Any]) -> Any:  # noqa: ANN401
        """Do as `run`, inside a loop."""
        self.attempt += 1
        run = Run(id="rehearsal", attempt=self.attempt, request_id="rehearsal")
        engine = _Engine(self)
        context = Context(engine, run=run, input=self.input, config=self.config, args=self.args)
        output = await _called(partial(function, context))
        return msgspec.json.decode(msgspec.json.encode(output))


class _Engine:
    """Stands behind the Context of one attempt."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._rehearsal = rehearsal
        self._loop = asyncio.get_running_loop()
        self._uses: Counter[str] = Counter()

    async def step(self, name: str, call: Callable[[], object], *, idempotent: bool) -> object:
        it = self._rehearsal
        self._uses[name] += 1
        key = name if self._uses[name] == 1 else f"{name}#{self._uses[name]}"
        if key in it.steps:
            return it.steps[key]
        if key in it.started:
            raise OutcomeUnknown(f"{key}: it was under way when its worker died")
        if it.die_before == key:
            it.die_before = None
            raise WorkerDied(key)
        if not idempotent:
            it.started.add(key)
        value = await _called(call)
        if it.die_in == key:
            it.die_in = None
            raise WorkerDied(key)
        it.steps[key] = msgspec.json.decode(msgspec.json.encode(value))
        it.started.discard(key)
        return it.steps[key]

    async def http(self, request: Request) -> Response:
        if self._rehearsal.http is None:
            raise StepFailed("the rehearsal has no `http` to answer calls")
        answer = self._rehearsal.http(request)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, str):
            return Response(status=200, headers={"content-type": "text/plain"}, content=answer.encode())
        content = msgspec.json.encode(answer)
        return Response(status=200, headers={"content-type": "application/json"}, content=content)

    async def llm(self, prompt: Prompt) -> Answer:
        if self._rehearsal.llm is None:
            raise StepFailed("the rehearsal has no `llm` to answer calls")
        answer = self._rehearsal.llm(prompt)
        if not isinstance(answer, Answer):
            answer = Answer(content=answer, model=prompt.model, input_tokens=0, output_tokens=0)
        self.count("inputTokens", answer.input_tokens)
        self.count("outputTokens", answer.output_tokens)
        return answer

    async def credential(self, slot: str) -> Credential:
        if slot not in self._rehearsal.credentials:
            raise StepFailed(f"credential slot {slot} is not bound")
        return Credential(type="Bearer", value=self._rehearsal.credentials[slot])

    def log(self, level: Level, message: str) -> None:
        self._rehearsal.lines.append((level, message))

    def count(self, name: str, amount: int) -> None:
        if amount:
            self._rehearsal.usage[name] += amount

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _called(call: Callable[[], Any]) -> Any:  # noqa: ANN401
    result = call() if inspect.iscoroutinefunction(call) else await asyncio.to_thread(call)
    return await result if inspect.isawaitable(result) else result
