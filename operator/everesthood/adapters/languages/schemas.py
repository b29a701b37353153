"""JSON Schema Draft 2020-12, bounded: no remote references, no recursion, no endless patterns.

`pattern` runs on the engine of CEL, whose regular expressions take linear time. Every keyword costs
a step, so that no schema and value together can hold a process for long.
"""

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, cast

import msgspec
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry

from everesthood.adapters.languages import sandbox

MAX_BYTES: Final = 65_536
MAX_DEPTH: Final = 32
MAX_NODES: Final = 5_000
MAX_REPORTED: Final = 20
_MAX_STEPS: Final = 100_000
_UNSUPPORTED: Final = frozenset(
    {"patternProperties", "$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$anchor", "$id"}
)
_OF_NAMES: Final = frozenset({"properties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose members are names of an author's choice, not keywords."""
_OF_DATA: Final = frozenset({"const", "enum", "default", "examples"})
"""Keywords whose content is a value, not a schema."""
_NOTHING_REMOTE: Final = Registry()
_steps: ContextVar[list[int]] = ContextVar("steps")


class _Endless(Exception):  # noqa: N818 - never leaves this module
    """The check takes too many steps."""


Pairs = list[tuple[str, str]]
_Keyword = Callable[..., Any]


@cache
def _matcher() -> Any:  # noqa: ANN401
    return sandbox.extension().compile("text.matches(pattern)")


def _pattern(
    _validator: object, pattern: str, instance: object, _schema: object
) -> Iterator[ValidationError]:
    if not isinstance(instance, str):
        return
    if not _matcher().execute({"text": instance, "pattern": pattern}):
        yield ValidationError(f"{_short(instance)} does not match {pattern!r}")


def _unique(_validator: object, wanted: bool, instance: object, _schema: object) -> Iterator[ValidationError]:
    if not wanted or not isinstance(instance, list):
        return
    seen = {msgspec.json.encode(item, order="deterministic") for item in instance}
    if len(seen) != len(instance):
        yield ValidationError("has items that are not unique")


def _counted(keyword: _Keyword) -> _Keyword:
    def count(*arguments: Any) -> Any:  # noqa: ANN401
        left = _steps.get()
        left[0] -= 1
        if left[0] < 0:
            raise _Endless
        return keyword(*arguments)

    return count


_OWN: Final[dict[str, _Keyword]] = {"pattern": _pattern, "uniqueItems": _unique}
_Validator: Final[Any] = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        name: _counted(_OWN.get(name, keyword))
        for name, keyword in cast("dict[str, _Keyword]", Draft202012Validator.VALIDATORS).items()
    },
)


def check(schema: Mapping[str, object], value: object) -> Pairs:
    """Return (JSON pointer, problem) for each place where the value breaks the schema."""
    _steps.set([_MAX_STEPS])
    found: Pairs = []
    try:
        for error in _Validator(dict(schema), registry=_NOTHING_REMOTE).iter_errors(value):
            found.append((_pointer(error.absolute_path), _sentence(error)))
            if len(found) == MAX_REPORTED:
                break
    except _Endless:
        return [("", "takes too many steps to check against its schema")]
    except RecursionError:
        return [("", "is nested too deeply")]
    except Exception as error:  # noqa: BLE001 - a schema that was never validated can raise anything
        return [("", f"cannot be checked: {sandbox.first_line(error)}")]
    return found


def problems(schema: Mapping[str, object]) -> Pairs:
    """Return (JSON pointer, problem) of a schema; empty when it can be used."""
    encoded = msgspec.json.encode(schema)
    if len(encoded) > MAX_BYTES:
        return [("", f"the schema is larger than {MAX_BYTES} bytes")]
    try:
        nodes = _Weigher(schema).weigh(schema, pointer="", depth=0, inside=())
    except _SchemaProblem as error:
        return [error.args]
    if nodes > MAX_NODES:
        return [("", f"the schema has more than {MAX_NODES} parts once its references are followed")]
    return _against_meta_schema(schema)


def _against_meta_schema(schema: Mapping[str, object]) -> Pairs:
    try:
        Draft202012Validator.check_schema(dict(schema))
    except SchemaError as error:
        return [(_pointer(error.absolute_path), _sentence(error))]
    return []


class _SchemaProblem(Exception):  # noqa: N818 - never leaves this module
    """One (pointer, problem)."""

    args: tuple[str, str]


class _Weigher:
    """Counts the parts of a schema with every reference followed, and refuses what cannot be."""

    def __init__(self, root: object) -> None:
        self._root = root
        self._weights: dict[str, int] = {}

    def weigh(self, node: object, *, pointer: str, depth: int, inside: tuple[str, ...]) -> int:
        if depth > MAX_DEPTH:
            raise _SchemaProblem("", f"the schema is nested more than {MAX_DEPTH} levels deep")
        total = 1
        for key, child in _children(node):
            where = f"{pointer}/{key}"
            if isinstance(node, Mapping):
                total += self._keyword(key, child, pointer=where, inside=inside)
            for name, part in _schemas(key if isinstance(node, Mapping) else "", child):
                total += self.weigh(part, pointer=where + name, depth=depth + 1, inside=inside)
        return total

    def _keyword(self, key: str, value: object, *, pointer: str, inside: tuple[str, ...]) -> int:
        if key in _UNSUPPORTED:
            raise _SchemaProblem(pointer, f"{key} is not supported")
        if key == "pattern" and isinstance(value, str):
            _regex(value, pointer)
        if key == "$ref" and isinstance(value, str):
            return self._reference(value, pointer=pointer, inside=inside)
        return 0

    def _reference(self, ref: str, *, pointer: str, inside: tuple[str, ...]) -> int:
        if not ref.startswith("#"):
            raise _SchemaProblem(pointer, f"{ref[:100]!r} is outside the schema; use '#/$defs/…'")
        if ref in inside:
            raise _SchemaProblem(pointer, f"{ref[:100]!r} contains itself; recursion is not supported")
        if ref not in self._weights:
            target = _resolve(self._root, ref, pointer)
            self._weights[ref] = self.weigh(target, pointer=ref[1:], depth=0, inside=(*inside, ref))
        return self._weights[ref]


def _children(node: object) -> list[tuple[str, object]]:
    if isinstance(node, Mapping):
        return [(str(key), child) for key, child in node.items()]
    if isinstance(node, list):
        return [(str(index), child) for index, child in enumerate(node)]
    return []


def _schemas(key: str, child: object) -> list[tuple[str, object]]:
    """Return the schemas under a keyword, each with its further path."""
    if key in _OF_DATA:
        return []
    if key in _OF_NAMES:
        return [(f"/{name}", part) for name, part in _children(child)]
    return [("", child)]


def _resolve(root: object, ref: str, pointer: str) -> object:
    target = root
    for part in ref.removeprefix("#").split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(target, Mapping) or name not in target:
            raise _SchemaProblem(pointer, f"{ref[:100]!r} points to nothing")
        target = target[name]
    return target


def _regex(pattern: str, pointer: str) -> None:
    try:
        _matcher().execute({"text": "", "pattern": pattern})
    except Exception:  # noqa: BLE001 - the engine says it with a RuntimeError of many lines
        message = "is not a supported regular expression (no look-around, no back-references)"
        raise _SchemaProblem(pointer, f"{pattern[:100]!r} {message}") from None


def _pointer(path: Any) -> str:  # noqa: ANN401 - a deque of keys
    return "".join(f"/{part}" for part in path)


def _sentence(error: ValidationError | SchemaError) -> str:
    text = str(error.message)
    if isinstance(error, SchemaError) and list(error.absolute_path)[-1:] == ["type"]:
        text = f"{_short(error.instance)} is not a JSON Schema type"
    return text if len(text) <= 300 else text[:297] + "…"  # noqa: PLR2004


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…'"  # noqa: PLR2004
