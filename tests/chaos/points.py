"""Where a run can be struck: every write of its path, found by reading the code, never listed by hand.

A process reaches a write when its own modules name the method that leads there. So a new statement, a new
command to Redis or a new call to the gateway is a new point without anybody thinking of it.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal

import msgspec

import everesthood
from everesthood.adapters.postgres.pool import sql
from everesthood.apis.wire import WorkRequest
from everesthood.usecases.ports.worker import Outbound

CODE: Final = Path(everesthood.__file__).parent
STATEMENTS: Final = CODE / "adapters" / "postgres" / "sql"
STORES: Final = "everesthood.adapters.postgres"
BROKER: Final = "everesthood.adapters.redis"
PROCESSES: Final = ("web", "gateway", "scheduler", "worker")

Place = Literal["sql", "redis", "gateway", "queue", "outside"]
"""The record, Redis by our own hand, a worker's call to the gateway, a bell in Celery's hands, an agent's call."""
Moment = Literal["before", "after"]
"""Before the write is sent; after it is committed and before whoever wrote hears of it."""

UNASKED: Final = {
    ("web", "sql:observe"): "web observes durations, never credentials: only the name is the same",
    ("gateway", "sql:accept_deduped"): "whoever calls another agent gives no key to deduplicate by",
    ("gateway", "sql:observe"): "looks at credentials; no run is touched",
    ("worker", "gateway:outputs"): "only reads, and only outputs too large for a claim",
    ("worker", "queue:reject"): "an early acknowledgement leaves nothing to reject",
    ("worker", "queue:restore_unacked"): "an early acknowledgement leaves nothing to restore",
    ("worker", "queue:restore_by_tag"): "an early acknowledgement leaves nothing to restore",
    ("worker", "queue:restore_visible"): "an early acknowledgement leaves nothing to restore",
}
"""Writes that reading the code finds and that no run's path comes to, each with the reason."""

_WRITES: Final = re.compile(r"\b(insert\s+into|update\s+\w+|delete\s+from)\b", re.IGNORECASE)
_LOCKS: Final = re.compile(r"\b(for|do)\s+(no\s+key\s+)?update\b", re.IGNORECASE)
_COMMENT: Final = re.compile(r"--.*")
_INCLUDE: Final = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
_NOT_COMMANDS: Final = frozenset({"aclose", "execute", "pipeline", "from_pool"})
_READS: Final = frozenset({"PING", "INFO", "ACL USERS", "SCAN ITER", "GET", "EXISTS", "LLEN"})
_QUEUE_WRITES: Final = frozenset({"zadd", "hset", "zrem", "hdel"})


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One write of one process, and who dies at it."""

    process: str
    operation: str
    """`place:name`, for work also `.what` of it."""
    victim: str
    """The process itself, or `postgresql` or `redis`."""
    moment: Moment

    def __str__(self) -> str:
        return f"{self.victim} at {self.process} {self.operation} {self.moment}"


@cache
def points() -> tuple[Point, ...]:
    """Return every point there is."""
    found = []
    for process in PROCESSES:
        for operation in sorted(operations(process)):
            if (process, operation) in UNASKED:
                continue
            for victim in (process, *_server(operation)):
                found += [Point(process, operation, victim, moment) for moment in ("before", "after")]
    return tuple(found)


def _server(operation: str) -> tuple[str, ...]:
    servers = {"sql": "postgresql", "redis": "redis", "queue": "redis"}
    place = operation.partition(":")[0]
    return (servers[place],) if place in servers else ()


def operations(process: str) -> set[str]:
    """Return the writes that a process can come to."""
    found: set[str] = set()
    for package in (STORES, BROKER):
        for reached in _reached(process, package):
            found |= set(_writes_of(reached))
    if process == "worker":
        found |= {f"gateway:{name}" for name in calls_of_gateway()}
        found |= {f"queue:{name}" for name in _writes_of_queue()}
        found |= {f"outside:{name}" for name in vars(Outbound) if not name.startswith("_")}
    return {kind for operation in found for kind in _kinds(operation)}


def _kinds(operation: str) -> list[str]:
    """Return what the one call of a worker may carry, each as a write of its own."""
    place, _, name = operation.partition(":")
    if name != "work":
        return [operation]
    told = {n.attr for n in ast.walk(_tree(f"{STORES}.work_store")) if isinstance(n, ast.Attribute)}
    fields = [field.name for field in msgspec.structs.fields(WorkRequest)]
    return [f"{operation}.{field}" for field in fields if place != "sql" or field in told]


@cache
def writing_statements() -> frozenset[str]:
    """Return the names of the statements that write."""
    found = set()
    parts = set()
    for file in STATEMENTS.glob("*.sql"):
        parts.update(_INCLUDE.findall(file.read_text()))
        if _WRITES.search(_LOCKS.sub("", _COMMENT.sub("", sql(file.stem)))):
            found.add(file.stem)
    return frozenset(found - parts)


# --- which methods a process comes to ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """A function, or one method of a class, in a module."""

    module: str
    owner: str
    name: str


def _reached(process: str, package: str) -> Iterator[ast.AST]:
    """Yield the bodies in a package that a process can come to."""
    named, imported = _names_of(process)
    waiting = [
        piece
        for module in _modules_below(package)
        for piece in _pieces(module)
        if piece.owner in imported and piece.name in named
    ]
    seen = set()
    while waiting:
        piece = waiting.pop()
        if piece in seen:
            continue
        seen.add(piece)
        for body in _bodies(piece):
            yield body
            waiting += _references(piece, body)


@cache
def _names_of(process: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return all attributes that a process's own modules name, and the classes that its wiring imports."""
    own = [f"everesthood.bootstrap.{process}", *_modules_below(f"everesthood.entrypoints.{process}")]
    modules, waiting = set(), list(own)
    while waiting:
        module = waiting.pop()
        if module not in modules:
            modules.add(module)
            waiting += [m for m in _imports(module).values() if m.startswith("everesthood.usecases.")]
    named = {
        node.attr for module in modules for node in ast.walk(_tree(module)) if isinstance(node, ast.Attribute)
    }
    return frozenset(named), frozenset(_imports(f"everesthood.bootstrap.{process}"))


def _pieces(module: str) -> Iterator[_Piece]:
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef):
            yield from (_Piece(module, node.name, part.name) for part in _methods(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _Piece(module, "", node.name)


def _bodies(piece: _Piece) -> Iterator[ast.AST]:
    for node in _tree(piece.module).body:
        if isinstance(node, ast.ClassDef) and node.name == piece.owner:
            # What a class hands out when it is made counts for each of its methods.
            yield from (part for part in _methods(node) if part.name in (piece.name, "__init__"))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (piece.owner, node.name) == (
            "",
            piece.name,
        ):
            yield node


def _references(piece: _Piece, body: ast.AST) -> Iterator[_Piece]:
    """Yield the methods, functions and whole classes that a body names."""
    here, imports = list(_pieces(piece.module)), _imports(piece.module)
    for node in ast.walk(body):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "self":
                yield from (p for p in here if p.owner == piece.owner and p.name == node.attr)
            elif (module := imports.get(node.value.id, "")) and find_spec(module):
                yield from (p for p in _pieces(module) if not p.owner and p.name == node.attr)
        elif isinstance(node, ast.Name):
            yield from (p for p in here if node.id in (p.owner, p.name if not p.owner else ""))
            module = imports.get(node.id, "")
            # Everything asks the pool; what it asks for stands in the call.
            if module.startswith(STORES) and module not in (STORES, f"{STORES}.pool"):
                yield from (p for p in _pieces(module) if node.id in (p.owner, p.name if not p.owner else ""))


def _methods(node: ast.ClassDef) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [part for part in node.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]


# --- what a body writes ----------------------------------------------------------------------------------


def _writes_of(body: ast.AST) -> Iterator[str]:
    for node in ast.walk(body):
        if not isinstance(node, ast.Call):
            continue
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        if isinstance(node.func, ast.Attribute) and node.func.attr == "notify":
            yield "sql:notify"
        elif first in writing_statements() and _name(node.func) in ("sql", "fetch", "row"):
            yield f"sql:{first}"
        elif isinstance(node.func, ast.Attribute) and _is_redis(node.func.value):
            command = str(first) if node.func.attr == "execute_command" else command_of(node.func.attr)
            if node.func.attr not in _NOT_COMMANDS and command not in _READS:
                yield f"redis:{command}"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _is_redis(value: ast.expr) -> bool:
    return _name(value) in ("_redis", "pipe")


def command_of(method: str) -> str:
    """Return the command that a method of the Redis client sends."""
    return {"delete": "DEL"}.get(method, method.replace("_", " ").upper())


def calls_of_gateway() -> list[str]:
    """Return the client's methods that post: a GET changes nothing."""
    module = "everesthood.adapters.gateway.client"
    (client,) = (n for n in _tree(module).body if isinstance(n, ast.ClassDef) and n.name == "GatewayClient")
    return [
        method.name
        for method in _methods(client)
        for node in ast.walk(method)
        if isinstance(node, ast.Call)
        and _name(node.func) == "_ask"
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "POST"
    ]


def _writes_of_queue() -> list[str]:
    """Return the methods with which Celery's transport takes a bell, and says that it has it."""
    from kombu.transport import redis as kombu_redis  # noqa: PLC0415 - the worker is started with this module

    (qos,) = ast.parse(inspect.getsource(kombu_redis.QoS)).body
    assert isinstance(qos, ast.ClassDef)
    methods = {
        method.name: {_name(n) for n in ast.walk(method) if isinstance(n, ast.expr)}
        for method in _methods(qos)
    }
    writing = {name for name, named in methods.items() if named & _QUEUE_WRITES}
    for _ in methods:
        writing |= {name for name, named in methods.items() if named & writing}
    return sorted(name for name in writing if not name.startswith("_"))


# --- reading code ------------------------------------------------------------------------------------------


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None, module
    assert spec.origin is not None, module
    return ast.parse(Path(spec.origin).read_text())


@cache
def _imports(module: str) -> dict[str, str]:
    """Return the names that a module imports from ours, each with the module that it is from, or is."""
    found = {}
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("everesthood."):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = (CODE.parent / whole.replace(".", "/")).with_suffix(".py").exists()
                found[alias.asname or alias.name] = whole if is_module else str(node.module)
    return found


@cache
def _modules_below(package: str) -> tuple[str, ...]:
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.submodule_search_locations is not None, package
    (folder,) = spec.submodule_search_locations
    return tuple(
        f"{package}.{file.stem}" for file in sorted(Path(folder).glob("*.py")) if file.stem != "__init__"
    )
