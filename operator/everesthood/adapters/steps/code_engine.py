"""What stands behind a Context in a worker: checkpoints, guarded calls, leases, log and usage."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import re
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import msgspec

from everesthood.adapters.steps.authors_loop import AuthorsLoop
from everesthood.adapters.steps.calls import IDEMPOTENCY_HEADER, idempotency_key
from everesthood.adapters.steps.llm_step import LlmRunner, Question
from everesthood.apis.wire import StepRecord
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.sdk import Answer, Credential, Prompt, Request, Response
from everesthood.sdk.context import Level
from everesthood.usecases.execute_step import encoded
from everesthood.usecases.ports.worker import Call, Credentials, Outbound, Scope

T = TypeVar("T")
P = ParamSpec("P")
InThread = Callable[[Callable[[], Any]], Awaitable[object]]

USAGE: Final = "$usage"
"""The record of a step's usage is `<step>/$usage`; no author's name has a `$`."""
_NAME: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,79}$")
_UNSAFE: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_IN_DOUBT: Final = "it was under way when its worker died, and must not be repeated unseen"

_piece: contextvars.ContextVar[str] = contextvars.ContextVar("piece")
"""The name of the `ctx.step` that the calling code is in."""


def _at_home(
    method: Callable[Concatenate["WorkerEngine", P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["WorkerEngine", P], Coroutine[Any, Any, T]]:
    """Run the method on the worker's loop, wherever it is awaited."""

    @functools.wraps(method)
    async def call(self: "WorkerEngine", /, *args: P.args, **options: P.kwargs) -> T:
        made = method(self, *args, **options)
        if asyncio.get_running_loop() is self.home:
            return await made
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(made, self.home))

    return call


class WorkerEngine:
    """The SDK's `Engine` of one try of one code step: lives on the worker's loop, the code elsewhere."""

    def __init__(
        self,
        scope: Scope,
        outbound: Outbound,
        llm: LlmRunner,
        credentials: Credentials,
        *,
        in_thread: InThread,
        authors: AuthorsLoop,
    ) -> None:
        """Belong to the step of `scope`."""
        self._scope = scope
        self._outbound = outbound
        self._llm = llm
        self._credentials = credentials
        self._in_thread = in_thread
        self._authors = authors
        self.home = asyncio.get_running_loop()
        self._uses: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._usage = self._earlier_usage()
        self._lock = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Let the code do nothing more through its Context: its step is over."""
        self._is_closed = True

    # --- checkpoints ------------------------------------------------------------------------

    @_at_home
    async def step(self, name: str, call: Callable[[], object], *, idempotent: bool) -> object:
        """Return the checkpoint of that name, or make the call and keep what it returns."""
        self._check_open()
        key = self._key(name)
        past = self._scope.earlier.get(key)
        if past is not None and past.state == "succeeded":
            return msgspec.json.decode(past.output)
        if past is not None and past.state == "started" and not idempotent:
            raise OutcomeUnknown(f"{key}: {_IN_DOUBT}")
        if self._scope.course.closing.done():
            raise asyncio.CancelledError  # another step failed: nothing more is begun
        began = time.time()
        if not idempotent:
            self._scope.course.critical.add(key)
            await self._keep(StepRecord(name=key, state="started", started_at=began))
        value = await self._made(key, call, idempotent=idempotent)
        raw = encoded(self._clean(value), f"the value of {key}")
        await self._keep(
            StepRecord(name=key, state="succeeded", output=raw, started_at=began, finished_at=time.time())
        )
        self._scope.course.critical.discard(key)
        return msgspec.json.decode(raw)

    def _key(self, name: str) -> str:
        if not _NAME.match(name):
            raise StepFailed(f"{name!r} is no name for a step: use letters, digits and _ . : -, at most 80")
        self._uses[name] += 1
        use = self._uses[name]
        return f"{self._scope.step.name}/{name}" + (f"#{use}" if use > 1 else "")

    async def _made(self, key: str, call: Callable[[], object], *, idempotent: bool) -> object:
        inside = contextvars.copy_context()
        inside.run(_piece.set, key)
        task = self.home.create_task(self._called(call), context=inside)
        try:
            return await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        except OutcomeUnknown as error:
            if idempotent:
                raise
            raise OutcomeUnknown(f"{key}: {error.message}") from None  # transient no more: a person decides
        except Exception:
            if not idempotent:
                await self._keep(StepRecord(name=key, state="failed", finished_at=time.time()))
                self._scope.course.critical.discard(key)
            raise

    async def _called(self, call: Callable[[], object]) -> object:
        try:
            if inspect.iscoroutinefunction(call):
                return await self._authors.run(call)
            result = await self._in_thread(call)
            return await self._authors.run(lambda: result) if inspect.isawaitable(result) else result
        except SystemExit as error:  # out of a task, it would end the worker
            raise StepFailed(f"SystemExit: {error}", transient=True) from None

    async def _keep(self, record: StepRecord) -> None:
        self.note_usage()
        await self._scope.journal.commit(record)
        self._scope.earlier[record.name] = record

    # --- calls ------------------------------------------------------------------------------

    @_at_home
    async def http(self, request: Request) -> Response:
        """Make an HTTP call through the guarded client."""
        self._check_open()
        headers = dict(request.headers)
        if request.method in _UNSAFE:
            headers.setdefault(IDEMPOTENCY_HEADER.lower(), self._call_key())
        answer = await self._outbound.send(
            Call(
                method=request.method,
                url=request.url,
                headers=tuple(headers.items()),
                content=request.content,
                credential=request.credential,
                max_bytes=request.max_bytes,
                timeout_seconds=request.timeout_seconds,
            )
        )
        return Response(status=answer.status, headers=answer.headers, content=answer.body)

    @_at_home
    async def llm(self, prompt: Prompt) -> Answer:
        """Make a model call, and count its tokens."""
        self._check_open()
        output: Any = await self._llm.ask(
            Question(
                endpoint=prompt.endpoint,
                model=prompt.model,
                messages=[dict(message) for message in prompt.messages],
                credential=prompt.credential,
                output_schema=prompt.output_schema,
                max_tokens=prompt.max_tokens,
                temperature=prompt.temperature,
                timeout_seconds=prompt.timeout_seconds,
                idempotency_key=self._call_key(),
            )
        )
        usage = output["usage"]
        self.count("inputTokens", usage["inputTokens"])
        self.count("outputTokens", usage["outputTokens"])
        return Answer(
            content=output["content"],
            model=output["model"],
            input_tokens=usage["inputTokens"],
            output_tokens=usage["outputTokens"],
        )

    def _call_key(self) -> str:
        """Return a key that the same call has again when its piece of work is repeated."""
        piece = _piece.get(self._scope.step.name)
        self._calls[piece] += 1
        return idempotency_key(self._scope.run, f"{piece}:{self._calls[piece]}")

    @_at_home
    async def credential(self, slot: str) -> Credential:
        """Lease the credential bound to a slot."""
        self._check_open()
        lease = await self._credentials.lease(slot)
        return Credential(type=lease.type, value=lease.value, header=lease.header, hosts=lease.hosts)

    # --- log and usage ----------------------------------------------------------------------

    def log(self, level: Level, message: str) -> None:
        """Write a line of the run's log."""
        clean = self._credentials.redact(message).replace("\x00", "\ufffd")
        self._on_loop(lambda: self._scope.journal.log(level, clean, self._scope.step.name))

    def count(self, name: str, amount: int) -> None:
        """Count usage; it is kept with the next checkpoint and at the end."""
        if not _NAME.match(name) or isinstance(amount, bool) or not isinstance(amount, int) or amount < 0:
            raise StepFailed(f"usage {name!r} {amount!r}: give a name and a whole number, 0 or more")
        with self._lock:
            self._usage[name] += amount

    def note_usage(self) -> None:
        """Write the usage counted so far."""
        with self._lock:
            counted = dict(self._usage)
        if not counted:
            return
        now = time.time()
        record = StepRecord(
            name=f"{self._scope.step.name}/{USAGE}",
            state="succeeded",
            output=msgspec.Raw(msgspec.json.encode(counted)),
            started_at=now,
            finished_at=now,
        )
        self._scope.earlier[record.name] = record
        self._scope.journal.note(record)

    def _earlier_usage(self) -> Counter[str]:
        past = self._scope.earlier.get(f"{self._scope.step.name}/{USAGE}")
        return Counter(msgspec.json.decode(past.output, type=dict[str, int]) if past else {})

    # --- threads ----------------------------------------------------------------------------

    def _check_thread(self) -> None:
        if _running_loop() is not None:
            raise StepFailed("ctx.wait blocks: in an async function, await instead")

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the author's loop and block the calling thread until it is done."""
        try:
            self._check_thread()
            self._check_open()
        except StepFailed:
            coroutine.close()
            raise
        return self._authors.block_on(coroutine)

    def _on_loop(self, call: Callable[[], None]) -> None:
        if _running_loop() is self.home:
            call()
        else:
            with contextlib.suppress(RuntimeError):  # the worker is gone, and with it the log
                self.home.call_soon_threadsafe(call)

    def _check_open(self) -> None:
        if self._is_closed:
            raise StepFailed("the step is over: its code can do nothing more")

    def _clean(self, value: object) -> object:
        try:
            text = msgspec.json.encode(value).decode()
        except (TypeError, ValueError, RecursionError, OverflowError):
            return value  # `encoded` says what is wrong
        clean = self._credentials.redact(text)
        return value if clean == text else msgspec.json.decode(clean)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
