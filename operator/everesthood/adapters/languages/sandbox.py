"""Evaluates CEL, here or in a process of its own when an expression may be dear.

Standard library only: the child is started by the path of this file, without site-packages, and is
ready in about 40 ms. A CEL call cannot be interrupted from inside, but a process can be killed.
"""

import datetime as dt
import importlib.machinery
import importlib.util
import json
import math
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

MAX_RESULT: Final = 1_048_576
MAX_ANSWER: Final = 4_194_304
MAX_DEPTH: Final = 128
MAX_PARTS: Final = 10_000
_DEADLINE_SECONDS: Final = 5
_MEMORY_BYTES: Final = 134_217_728
"""Beside a worker in a pod of 256 MiB. The child takes 21; for 1 MiB of rows 35, of tiny ones 150."""
_ALONE: Final = threading.Lock()


class ExpressionError(Exception):
    """The expression has no value; the text says why, for a person."""


@cache
def extension() -> Any:  # noqa: ANN401 - the package's type stubs need its slow import
    """Load the compiled part of the `cel` package.

    Its `__init__` also imports a terminal user interface, which costs 0.7 s and 25 MiB.
    """
    return load(extension_path())


@cache
def extension_path() -> str:
    """Return the file of the compiled part."""
    package = importlib.util.find_spec("cel")
    where = list(package.submodule_search_locations or ()) if package else []
    spec = importlib.machinery.PathFinder.find_spec("cel", where)
    if spec is None or spec.origin is None:
        msg = "the package common-expression-language is not installed"
        raise ImportError(msg)
    return spec.origin


def load(path: str) -> Any:  # noqa: ANN401
    """Load the extension from its file."""
    spec = importlib.util.spec_from_file_location("cel", path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be loaded"
        raise ImportError(msg)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _sized(length: int) -> None:
    if length > MAX_RESULT:
        msg = f"a text would grow over {MAX_RESULT} characters"
        raise ValueError(msg)


def _replace(text: str, old: str, new: str) -> str:
    _sized(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _join(items: list[str], separator: str = "") -> str:
    _sized(sum(map(len, items)) + len(items) * len(separator))
    return separator.join(items)


def _split(text: str, separator: str) -> list[str]:
    parts = text.split(separator) if separator else list(text)
    if len(parts) > MAX_PARTS:
        msg = f"split() would make more than {MAX_PARTS} parts"
        raise ValueError(msg)
    return parts


def _substring(text: str, start: int, end: int | None = None) -> str:
    if start < 0 or (end is not None and end < start):
        msg = "substring() needs 0 <= start <= end"
        raise ValueError(msg)
    return text[start:end]


FUNCTIONS: Final[Mapping[str, Callable[..., object]]] = {
    "split": _split,
    "join": _join,
    "replace": _replace,
    "substring": _substring,
    "trim": lambda text: text.strip(),
    "lowerAscii": lambda text: text.lower(),
    "upperAscii": lambda text: text.upper(),
    "indexOf": lambda text, part: text.find(part),
}
"""Functions beyond the CEL standard, spelled as in cel-go's string extension."""


def run(module: Any, program: Any, variables: Mapping[str, object]) -> object:  # noqa: ANN401
    """Return the value of a compiled expression, as JSON knows values."""
    context = module.Context(dict(variables), dict(FUNCTIONS))
    try:
        value = program.execute(context)
    except KeyError as error:
        raise ExpressionError(f"there is no {error.args[0]!r}") from None
    except Exception as error:  # noqa: BLE001 - the extension raises seven kinds
        raise ExpressionError(first_line(error)) from None
    return jsonable(value, depth=0)


def first_line(error: BaseException) -> str:
    """Return what an error says, short enough for a message."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300]


def jsonable(value: object, *, depth: int) -> object:
    """Return the value if JSON can carry it, and say what to do where it cannot."""
    if depth > MAX_DEPTH:
        raise ExpressionError("the value is nested too deeply")
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            return _finite(value)
        case list() | tuple():
            return [jsonable(item, depth=depth + 1) for item in value]
        case dict():
            return {_key(k): jsonable(item, depth=depth + 1) for k, item in value.items()}
        case dt.datetime() | dt.timedelta():
            raise ExpressionError("the value is a time, which JSON lacks; wrap it in string()")
        case _:
            raise ExpressionError(f"the value is {type(value).__name__}, which JSON lacks")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ExpressionError(f"the value is {value}, which JSON lacks")
    return value


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise ExpressionError(f"the key {key!r} is not a string, and JSON needs strings")
    return key


def run_apart(expression: str, variables: bytes) -> object:
    """Evaluate in a process of its own, bounded in time and memory, one at a time: they share the pod's."""
    job = json.dumps([extension_path(), expression]).encode() + b"\n" + variables
    command = [sys.executable, "-I", "-S", str(Path(__file__))]
    try:
        with _ALONE:
            done = subprocess.run(  # noqa: S603 - our own file, no shell
                command, input=job, capture_output=True, timeout=_DEADLINE_SECONDS, check=False
            )
    except subprocess.TimeoutExpired:
        raise ExpressionError(f"it took longer than {_DEADLINE_SECONDS} seconds") from None
    if done.returncode != 0:
        raise ExpressionError("it needs too much memory")
    value, wrong = json.loads(done.stdout)
    if wrong is not None:
        raise ExpressionError(wrong)
    return value


def main() -> None:
    """Be the child: one job from standard input, one answer to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_DEADLINE_SECONDS + 1, _DEADLINE_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    head, _, body = sys.stdin.buffer.read().partition(b"\n")
    path, expression = json.loads(head)
    module = load(path)
    try:
        answer = [run(module, module.compile(expression), json.loads(body)), None]
    except ExpressionError as error:
        answer = [None, str(error)]
    text = json.dumps(answer)
    if len(text) > MAX_ANSWER:
        text = json.dumps([None, f"the value is larger than {MAX_ANSWER} bytes"])
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
