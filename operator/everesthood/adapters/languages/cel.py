"""CEL: compiled once, weighed, then evaluated in place or, when it may be dear, in a sandbox.

The engine holds the interpreter's lock and has no cost limit, and its `map` is quadratic. So the
work is bounded from outside: by an estimate that is never too low, and by a process with limits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import msgspec

from everesthood.adapters.languages import sandbox
from everesthood.adapters.languages.scan import MACROS, Scan, scan
from everesthood.adapters.languages.values import check_depth
from everesthood.domain.errors import ExpressionFailed

MAX_LENGTH: Final = 4096
KNOWN_FUNCTIONS: Final = (
    frozenset(sandbox.FUNCTIONS)
    | MACROS
    | {"has", "size", "contains", "startsWith", "endsWith", "matches", "string", "int", "uint"}
    | {"double", "bytes", "timestamp", "duration", "type", "dyn", "getFullYear", "getMonth"}
    | {"getDate", "getDayOfMonth", "getDayOfWeek", "getDayOfYear", "getHours", "getMinutes"}
    | {"getSeconds", "getMilliseconds"}
)
_CHEAP_STEPS: Final = 100_000
_CHEAP_BYTES: Final = 8_388_608
_REGEX_WEIGHT: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A compiled expression and what it refers to."""

    text: str
    program: Any
    scan: Scan


@lru_cache(maxsize=2048)
def compiled(text: str) -> Expression:
    """Compile once; raise ExpressionFailed with the engine's complaint."""
    if len(text) > MAX_LENGTH:
        raise ExpressionFailed(f"the expression is longer than {MAX_LENGTH} characters")
    try:
        program = sandbox.extension().compile(text)
    except Exception as error:  # noqa: BLE001 - whatever the engine raises is a complaint
        raise ExpressionFailed(complaint(error)) from None
    return Expression(text=text, program=program, scan=scan(text))


def complaint(error: Exception) -> str:
    """Return the engine's parse error as one short line."""
    found = re.search(r"ERROR: <input>:([0-9]+):([0-9]+): (.*)", str(error))
    if found is None:
        return f"not valid CEL: {sandbox.first_line(error)}"
    line, column, text = found.groups()
    text = text.replace("Syntax error: ", "").partition(" expecting ")[0].replace("'<EOF>'", "the end")
    return f"not valid CEL at line {line}, column {column}: {text[:200]}"


def problem(text: str) -> str | None:
    """Return what is wrong with an expression before any variable is known."""
    try:
        unknown = sorted(compiled(text).scan.functions - KNOWN_FUNCTIONS)
    except ExpressionFailed as error:
        return error.message
    return f"there is no function {unknown[0]}()" if unknown else None


def evaluate(text: str, variables: Mapping[str, object]) -> object:
    """Return the value of an expression over the variables that it names."""
    expression = compiled(text)
    given = _named(expression.scan, variables)
    try:
        encoded = msgspec.json.encode(given)
        check_depth(given, encoded)
        if _is_cheap(expression, encoded):
            return sandbox.run(sandbox.extension(), expression.program, given)
        return sandbox.run_apart(text, encoded)
    except sandbox.ExpressionError as error:
        raise ExpressionFailed(str(error)) from None
    except (TypeError, ValueError) as error:
        raise ExpressionFailed(f"a variable is not JSON: {error}") from None


def _named(found: Scan, variables: Mapping[str, object]) -> dict[str, object]:
    given = {name: variables[name] for name in found.roots if name in variables}
    steps = given.get("steps")
    if isinstance(steps, Mapping) and not found.whole_steps:
        given["steps"] = {name: steps[name] for name in found.steps if name in steps}
    return given


def _is_cheap(expression: Expression, encoded: bytes) -> bool:
    found = expression.scan
    mentions = max(found.mentions, 1)
    size = (len(encoded) + len(expression.text)) * mentions
    if not found.loops:
        return size <= _CHEAP_BYTES
    longest = (encoded.count(b",") + found.commas + 1) * mentions
    if "split" in found.functions:
        longest = sandbox.MAX_PARTS
    if "matches" in found.functions:
        longest *= _REGEX_WEIGHT
    steps: int = longest ** (found.loops + 1)
    return steps <= _CHEAP_STEPS and size * longest**found.loops <= _CHEAP_BYTES
