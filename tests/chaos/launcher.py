"""Starts a process of the product with a hand on its shoulder: `python -m tests.chaos.launcher MODULE`.

Nothing in the product knows of it. The writes that `tests.chaos.points` found are wrapped before the process's
own module runs. Each looks for a file in which a test has written where to strike and whom; whoever takes the file
away strikes, so that a point is struck once however often its process is started again. CHAOS_SKEW moves the
process's clock, not its sense of how time passes.
"""

import contextlib
import contextvars
import functools
import json
import os
import runpy
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("CHAOS_FOLDER", ""))
PROCESS = os.environ.get("CHAOS_PROCESS", "")
SKEW = float(os.environ.get("CHAOS_SKEW", "0"))
ARMED = "armed"
STRUCK = "struck"
ELSEWHERE = "elsewhere"
"""Another organisation's namespace."""

_carried: contextvars.ContextVar[frozenset[str]] = contextvars.ContextVar("carried", default=frozenset())


def strike(operations: Iterable[str], moment: str) -> None:
    """Kill whom the test wants dead, if this is where; nothing else happens in this process first."""
    armed = FOLDER / f"{PROCESS}.{ARMED}"
    if not armed.exists():
        return
    try:
        wanted = json.loads(armed.read_text())
        if wanted["operation"] not in operations or wanted["moment"] != moment:
            return
        armed.unlink()
    except (OSError, ValueError):
        return  # another process of the same name was faster
    victims = wanted["victims"] or [os.getpid()]
    (FOLDER / f"{PROCESS}.{STRUCK}").write_text(json.dumps(time.monotonic()))
    for pid in victims:
        for one in [pid, *children(pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGKILL)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def around(
    act: Callable[..., Awaitable[Any]], operations: Callable[[tuple[Any, ...], Any], Iterable[str]]
) -> Callable[..., Awaitable[Any]]:
    """Wrap an awaitable write: `operations` says of its arguments, and then of its answer too, what it is."""

    @functools.wraps(act)
    async def wrapped(*args: Any, **options: Any) -> Any:
        strike(operations(args, None), "before")
        answer = await act(*args, **options)
        strike(operations(args, answer), "after")
        return answer

    return wrapped


# --- PostgreSQL: a statement by its text, a transaction by its end ---------------------------------------


def hook_postgres() -> None:
    """Wrap every statement that any connection runs."""
    import asyncpg  # noqa: PLC0415
    from tests.chaos.points import writing_statements  # noqa: PLC0415

    from everesthood.adapters.postgres.pool import sql  # noqa: PLC0415

    names = {sql(name): name for name in writing_statements()}
    uncommitted: dict[int, set[str]] = {}

    def operations(query: str, values: tuple[Any, ...]) -> set[str]:
        name = names.get(query)
        if name is None and "pg_notify" in query:
            return {"sql:notify"}
        columns = [value for value in values if isinstance(value, list)]
        if name is None or (name != "resolve" and columns and not any(columns)):
            return set()  # but for `resolve`, which may have nothing to forget: a statement with nothing in its columns writes nothing
        return {f"sql:{name}", *(f"sql:{name}.{what}" for what in _carried.get())}

    def wrap(act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        @functools.wraps(act)
        async def wrapped(self: Any, query: str, *values: Any, **options: Any) -> Any:
            found = operations(query, values)
            strike(found, "before")
            answer = await act(self, query, *values, **options)
            if found and self.is_in_transaction():
                uncommitted.setdefault(id(self), set()).update(found)
            elif query.startswith(("COMMIT", "ROLLBACK")):
                ended = uncommitted.pop(id(self), set())
                strike(ended if query.startswith("COMMIT") else (), "after")
            else:
                strike(_with_claims(found, answer), "after")
            return answer

        return wrapped

    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        setattr(asyncpg.Connection, name, wrap(getattr(asyncpg.Connection, name)))


def _with_claims(operations: set[str], answer: Any) -> set[str]:
    """A claim that brought nothing wrote nothing."""
    if isinstance(answer, list) and not any(row.get("k", 1) > 0 for row in answer):
        return {operation for operation in operations if not operation.endswith((".want", ":claim"))}
    return operations


def hook_work() -> None:
    """Say of the gateway's one statement what its batch carries."""
    from everesthood.adapters.postgres import PostgresWork  # noqa: PLC0415

    act = PostgresWork._work

    async def wrapped(self: Any, batch: Any) -> Any:
        _carried.set(frozenset(name for call in batch for name in carried(call.request)))
        try:
            return await act(self, batch)
        finally:
            _carried.set(frozenset())

    PostgresWork._work = wrapped  # type: ignore[method-assign]


def carried(request: Any) -> list[str]:
    """Return the fields of a worker's call that say anything: one that holds nothing says so."""
    said = zip(request.__struct_fields__, request.__struct_defaults__, strict=True)
    return [name for name, silent in said if getattr(request, name) != silent]


# --- Redis -------------------------------------------------------------------------------------------------


def hook_redis() -> None:
    """Wrap every command of the asynchronous client, alone or in a pipeline."""
    from redis.asyncio import Redis  # noqa: PLC0415
    from redis.asyncio.client import Pipeline  # noqa: PLC0415

    def alone(args: tuple[Any, ...], _: Any) -> set[str]:
        return {f"redis:{args[1]}"} if len(args) > 1 else set()

    def together(args: tuple[Any, ...], answer: Any) -> set[str]:
        if answer is None:  # before: the commands are forgotten with the answer
            args[0].chaos = {f"redis:{command[0][0]}" for command in args[0].command_stack}
        found: set[str] = args[0].chaos
        return found

    Redis.execute_command = around(Redis.execute_command, alone)  # type: ignore[method-assign]
    Pipeline.execute = around(Pipeline.execute, together)  # type: ignore[method-assign]


def hook_queue() -> None:
    """Wrap what Celery's transport does with a bell; in its thread, where nothing is awaited."""
    from kombu.transport.redis import QoS  # noqa: PLC0415

    def wrap(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def wrapped(*args: Any, **options: Any) -> Any:
            strike({f"queue:{name}"}, "before")
            answer = act(*args, **options)
            strike({f"queue:{name}"}, "after")
            return answer

        return wrapped

    for name in ("append", "ack"):
        setattr(QoS, name, wrap(name, getattr(QoS, name)))


# --- the worker ----------------------------------------------------------------------------------------------


def hook_gateway_client() -> None:
    """Wrap the worker's calls to the gateway, and its agents' calls to the outside."""
    from tests.chaos.points import calls_of_gateway  # noqa: PLC0415

    from everesthood.adapters.gateway import GatewayClient  # noqa: PLC0415
    from everesthood.adapters.outbound import GuardedClient  # noqa: PLC0415

    def calls(name: str) -> Callable[[tuple[Any, ...], Any], set[str]]:
        def operations(args: tuple[Any, ...], answer: Any) -> set[str]:
            if name != "work":
                return {f"gateway:{name}"}
            found = set(carried(args[1]))
            if answer is not None and not answer.assignments:
                found.discard("want")
            return {f"gateway:work.{what}" for what in found}

        return operations

    for name in calls_of_gateway():
        setattr(GatewayClient, name, around(getattr(GatewayClient, name), calls(name)))
    GuardedClient.send = around(GuardedClient.send, lambda *_: {"outside:send"})  # type: ignore[method-assign]


def forget_soon() -> None:
    """Have the scheduler look for what is old every second, not after minutes."""
    from everesthood.bootstrap import scheduler  # noqa: PLC0415
    from everesthood.usecases import forget_old  # noqa: PLC0415

    scheduler.FORGET_SECONDS = 1.0  # type: ignore[misc]
    forget_old.WALK_SECONDS = 0.0  # type: ignore[misc]


def refuse_elsewhere() -> None:
    """Have a namespace in which people may do nothing: RBAC is not here to say so."""
    from everesthood.adapters.local.world import LocalWorld  # noqa: PLC0415

    allows = LocalWorld.allows

    async def allows_here(self: LocalWorld, identity: Any, access: Any) -> bool:
        return access.namespace != ELSEWHERE and await allows(self, identity, access)

    LocalWorld.allows = allows_here  # type: ignore[method-assign]


def main() -> None:
    """Lay hands on the process, then let it run as if it had been started itself."""
    if PROCESS in ("worker", "helper"):
        hook_gateway_client()
        hook_queue()
    else:
        hook_postgres()
        hook_redis()
        if PROCESS == "web":
            refuse_elsewhere()
        if PROCESS == "gateway":
            hook_work()
        if PROCESS == "scheduler":
            forget_soon()
    module = sys.argv.pop(1)
    if SKEW:
        import time_machine  # noqa: PLC0415

        time_machine.travel(time.time() + SKEW, tick=True).start()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
