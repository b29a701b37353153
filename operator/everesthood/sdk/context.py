"""Context: all that a code agent can see and do."""

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, overload

from everesthood.sdk.calls import Http, Request, Response
from everesthood.sdk.leases import Credential
from everesthood.sdk.models import Answer, Llm, Prompt

T = TypeVar("T")
Level = Literal["debug", "info", "warning", "error"]


class Engine(Protocol):
    """What stands behind a Context: a worker, or `everesthood.testing`."""

    async def step(self, name: str, call: Callable[[], object], *, idempotent: bool) -> object:
        """Return the checkpoint of that name, or make the call and keep what it returns."""
        ...

    async def http(self, request: Request) -> Response:
        """Make an HTTP call."""
        ...

    async def llm(self, prompt: Prompt) -> Answer:
        """Make a model call."""
        ...

    async def credential(self, slot: str) -> Credential:
        """Lease a credential."""
        ...

    def log(self, level: Level, message: str) -> None:
        """Write a line; callable from any thread."""
        ...

    def count(self, name: str, amount: int) -> None:
        """Count usage; callable from any thread."""
        ...

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the loop and block the calling thread until it is done."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Which run this is."""

    id: str
    attempt: int
    """1 at first; higher when a worker died under the run."""
    request_id: str
    """Finds the run in all logs."""


class Log:
    """Lines of the run's log: `ctx.log("…")`, or by level."""

    def __init__(self, engine: Engine) -> None:
        """Write to this."""
        self._engine = engine

    def __call__(self, message: str) -> None:
        """Write a line."""
        self._engine.log("info", str(message))

    def debug(self, message: str) -> None:
        """Write a line that few will want to read."""
        self._engine.log("debug", str(message))

    def info(self, message: str) -> None:
        """Write a line."""
        self._engine.log("info", str(message))

    def warning(self, message: str) -> None:
        """Write a line about something that may become a problem."""
        self._engine.log("warning", str(message))

    def error(self, message: str) -> None:
        """Write a line about something that went wrong."""
        self._engine.log("error", str(message))


class Context:
    """The argument of a code agent's function.

    Attributes:
        input: the run's input, a JSON value.
        config: the instance's config, a JSON value.
        args: the value of the step's `args` expression; null without one.
        run: which run this is.
        http: HTTP calls, `await ctx.http.get(url)`.
        llm: model calls, `await ctx.llm(prompt, endpoint=…, model=…)`.
        log: the run's log, `ctx.log("…")`.
    """

    def __init__(self, engine: Engine, *, run: Run, input: Any, config: Any, args: Any) -> None:  # noqa: A002, ANN401
        """Made by the worker, or by `everesthood.testing`."""
        self._engine = engine
        self.run = run
        self.input = input
        self.config = config
        self.args = args
        self.http = Http(engine.http)
        self.llm = Llm(engine.llm)
        self.log = Log(engine)

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        *args: object,
        idempotent: bool = ...,
        **options: object,
    ) -> T: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., T],
        *args: object,
        idempotent: bool = ...,
        **options: object,
    ) -> T: ...

    async def step(
        self,
        name: str,
        function: Callable[..., object],
        *args: object,
        idempotent: bool = True,
        **options: object,
    ) -> object:
        """Do a piece of work once: call `function(*args, **options)` and keep what it returns.

        When the run goes on after its worker died, or the whole step is tried again, a piece that
        was done is not done again: its kept value is returned. The value is durable before `step`
        returns. It must be JSON (dataclasses and datetimes are written as JSON), at most 1 MiB, and
        comes back as plain JSON values, the same at first and after a resume.

        A name may be used several times, as in a loop; uses are numbered in the order of the calls,
        so keep that order the same on each attempt. A plain function runs in a thread.

        The name has letters, digits and `_ . : -`, at most 80. The record calls it `<step>/<name>`,
        the second use `<step>/<name>#2`.

        With `idempotent=False` for what must not be repeated when nobody knows whether it took effect,
        such as a payment: if the worker dies in the middle of it, the run stops as ambiguous.
        """
        return await self._engine.step(name, partial(function, *args, **options), idempotent=idempotent)

    async def credential(self, slot: str) -> Credential:
        """Lease the credential bound to a slot of the template."""
        return await self._engine.credential(slot)

    def usage(self, name: str, amount: int) -> None:
        """Count what the run used, such as `ctx.usage("pages", 3)`."""
        self._engine.count(name, amount)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait, in a plain function, for what an async function would await.

        For example `page = ctx.wait(ctx.http.get(url))`.
        """
        return self._engine.wait(coroutine)
