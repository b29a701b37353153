"""The code step: finds the author's function and calls it with a Context."""

import asyncio
import contextlib
import contextvars
import importlib
import inspect
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from everesthood.adapters.steps.authors_loop import AuthorsLoop
from everesthood.adapters.steps.code_engine import WorkerEngine
from everesthood.adapters.steps.llm_step import LlmRunner
from everesthood.domain.errors import EveresthoodError, ExpressionFailed, StepFailed
from everesthood.domain.steps import CodeStep
from everesthood.sdk import Context, Run
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Credentials, Outbound, Scope

_LOG: Final = logging.getLogger(__name__)
_MOST_THREADS: Final = 100
_MOST_DEPTH: Final = 8
_SHOWN_FRAMES: Final = 8
_depth: contextvars.ContextVar[int] = contextvars.ContextVar("depth", default=0)
"""How many plain functions of the author's wait for the one that runs here."""

Function = Callable[[Context], Any]
_Key = tuple[str, str]
"""A run, and one of its steps."""


class CodeRunner:
    """Calls the author's functions: plain ones in threads, async ones on a loop of their own."""

    def __init__(self, expressions: Expressions, outbound: Outbound, credentials: Credentials) -> None:
        """Give functions these to work with."""
        self._expressions = expressions
        self._outbound = outbound
        self._llm = LlmRunner(expressions, outbound)
        self._credentials = credentials
        self._found: dict[str, Function] = {}
        # A thread that waits for another one waits for one of the next pool: they never wait for each other.
        self._threads: list[ThreadPoolExecutor] = []
        self._authors = AuthorsLoop()
        self._busy: set[_Key] = set()
        self._outlived: dict[Future[Any], _Key] = {}

    def trouble(self) -> str | None:
        """Return why only a new process helps: functions that never return hold half of the threads."""
        if 2 * len(self._outlived) < _MOST_THREADS:
            return None
        steps = sorted({step for _, step in self._outlived.values()})
        return f"{len(self._outlived)} threads are held by code that outlived its step: {', '.join(steps)}"

    async def find(self, entrypoint: str, path: str = "code.entrypoint") -> Function:
        """Return the function, imported once; raise StepFailed with the path when there is none."""
        known = self._found.get(entrypoint)
        if known is None:
            known = await asyncio.to_thread(_imported, entrypoint, path)
            self._found[entrypoint] = known
        return known

    async def run(self, scope: Scope, step: CodeStep) -> object:
        """Return what the function returns."""
        function = await self.find(step.entrypoint)
        args = await self._args(scope, step)
        engine = WorkerEngine(
            scope,
            self._outbound,
            self._llm,
            self._credentials,
            in_thread=partial(self._piece, (scope.run, scope.step.name)),
            authors=self._authors,
        )
        context = Context(
            engine,
            run=Run(id=scope.run, attempt=scope.attempt, request_id=scope.request_id),
            input=scope.variables["input"],
            config=scope.variables["config"],
            args=args,
        )
        try:
            return await self._call(scope, function, context)
        except EveresthoodError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the author's code raises
            engine.log("error", _shown(error))
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            raise StepFailed(said, transient=True) from None
        finally:
            engine.note_usage()
            engine.close()

    async def _args(self, scope: Scope, step: CodeStep) -> object:
        if step.args is None:
            return None
        try:
            return await self._expressions.evaluate(step.args, scope.variables)
        except ExpressionFailed as error:
            raise ExpressionFailed(f"args: {error.message}") from None

    async def _call(self, scope: Scope, function: Function, context: Context) -> object:
        if inspect.iscoroutinefunction(function):
            return await self._authors.run(function, context)
        key = (scope.run, scope.step.name)
        if key in self._busy:
            raise StepFailed("the try before is still running in its thread, which nothing can stop")
        work = self._begun(0, function, context)
        self._busy.add(key)
        _at_home(work, lambda: self._busy.discard(key))
        result = await self._end_of(work, key)
        return await self._authors.run(lambda: result) if inspect.isawaitable(result) else result

    async def _piece(self, key: _Key, call: Callable[[], Any]) -> object:
        # A thread that the author started knows no depth; a function of the first pool may wait for it.
        return await self._end_of(self._begun(max(_depth.get(), 1), call), key)

    def _begun(self, depth: int, function: Callable[..., Any], *args: object) -> Future[Any]:
        if depth >= _MOST_DEPTH:
            raise StepFailed(f"pieces of plain code are nested more than {_MOST_DEPTH} deep")
        while depth >= len(self._threads):
            self._threads.append(ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="code"))
        inside = contextvars.copy_context()
        inside.run(_depth.set, depth + 1)
        return self._threads[depth].submit(inside.run, function, *args)

    async def _end_of(self, work: Future[Any], key: _Key) -> object:
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel() and not work.done():  # what waits for a thread is not begun any more
                self._outlive(work, key)
            raise

    def _outlive(self, work: Future[Any], key: _Key) -> None:
        self._outlived[work] = key
        _at_home(work, lambda: self._outlived.pop(work, None))
        said = "run %s: step %s is over, and its code still holds one of %d threads (%d are held so)"
        _LOG.warning(said, *key, _MOST_THREADS, len(self._outlived))


def _at_home(work: Future[Any], tell: Callable[[], object]) -> None:
    """Tell this loop once the work is over, before anybody who waits for it hears of it."""
    home = asyncio.get_running_loop()

    def over(_: Future[Any]) -> None:
        with contextlib.suppress(RuntimeError):  # the worker is gone
            home.call_soon_threadsafe(tell)

    work.add_done_callback(over)


def _imported(entrypoint: str, path: str) -> Function:
    module_name, _, function_name = entrypoint.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ModuleNotFoundError as error:
        said = f"{path}: the worker's image has no module {error.name or module_name}"
        raise StepFailed(said) from None
    except AttributeError:
        raise StepFailed(f"{path}: module {module_name} has no function {function_name}") from None
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the author's module raises
        said = f"{path}: module {module_name} cannot be imported: {type(error).__name__}: {error}"
        raise StepFailed(said) from None
    if not callable(function):
        raise StepFailed(f"{path}: {entrypoint} is not a function")
    return function  # type: ignore[no-any-return]


def _shown(error: BaseException) -> str:
    """Return the author's part of a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "everesthood/adapters/steps" not in frame.filename]
    lines = traceback.format_list(own[-_SHOWN_FRAMES:])
    return "".join([*lines, *traceback.format_exception_only(error)]).rstrip()
