"""A quick test of the schemas that most inputs have, made once and used for every run.

It only says yes, and only what JSON Schema says yes to as well: whoever hears no asks `schemas.check`, which
knows all keywords and finds the words. With a keyword that is not here the test never says yes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeGuard

Test = Callable[[Any], bool]
Schema = Mapping[str, Any]

_SAYS_NOTHING: Final = frozenset(
    {"$schema", "$comment", "$defs", "title", "description", "default", "examples", "deprecated", "format",
     "readOnly", "writeOnly"}
)  # fmt: skip
_TYPES: Final[Mapping[str, Test]] = {
    "object": lambda value: type(value) is dict,
    "array": lambda value: type(value) is list,
    "string": lambda value: type(value) is str,
    "boolean": lambda value: type(value) is bool,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) is int or type(value) is float,
    "null": lambda value: value is None,
}


class _Unknown(Exception):  # noqa: N818 - never leaves this module
    """The schema has something that is not here."""


def compiled(schema: object) -> Test:
    """Return the test: what it says yes to keeps the schema, what it says no to may do so too."""
    try:
        return _test(schema)
    except _Unknown:
        return _never


def _test(schema: object) -> Test:
    if schema is True:
        return _always
    if not isinstance(schema, Mapping):
        raise _Unknown
    tests = [_keyword(name, wanted, schema) for name, wanted in schema.items() if name not in _SAYS_NOTHING]
    return _all(tests)


def _keyword(name: str, wanted: Any, schema: Schema) -> Test:  # noqa: ANN401 - any JSON
    make = _KEYWORDS.get(name)
    if make is None:
        raise _Unknown
    return make(wanted, schema)


def _all(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    some = tuple(tests)

    def every(value: object) -> bool:
        for test in some:  # noqa: SIM110 - all() with a generator takes three times as long
            if not test(value):
                return False
        return True

    return every


def _any(tests: Iterable[Test]) -> Test:
    some = tuple(tests)
    return lambda value: any(test(value) for test in some)


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def _type(wanted: object, _: Schema) -> Test:
    names = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(names, list) or not all(name in _TYPES for name in names):
        raise _Unknown
    return _TYPES[names[0]] if len(names) == 1 else _any(_TYPES[name] for name in names)


def _properties(wanted: object, _: Schema) -> Test:
    if not isinstance(wanted, Mapping):
        raise _Unknown
    known = tuple((name, _test(part)) for name, part in wanted.items())

    def test(value: object) -> bool:
        if type(value) is dict:
            for name, part in known:
                if name in value and not part(value[name]):
                    return False
        return True

    return test


def _required(wanted: object, _: Schema) -> Test:
    if not _are_texts(wanted):
        raise _Unknown
    names = frozenset(wanted)
    return lambda value: type(value) is not dict or names <= value.keys()


def _additional(wanted: object, schema: Schema) -> Test:
    known = frozenset(schema.get("properties", ()))
    if wanted is False:
        return lambda value: type(value) is not dict or value.keys() <= known
    part = _test(wanted)
    return lambda value: (
        type(value) is not dict or all(part(one) for name, one in value.items() if name not in known)
    )


def _items(wanted: object, schema: Schema) -> Test:
    if "prefixItems" in schema:
        raise _Unknown
    part = _test(wanted)
    return lambda value: type(value) is not list or all(map(part, value))


def _enum(wanted: object, _: Schema) -> Test:
    if not _are_texts(wanted):
        raise _Unknown
    texts = frozenset(wanted)
    return lambda value: type(value) is str and value in texts


def _any_of(wanted: object, _: Schema) -> Test:
    if not isinstance(wanted, list):
        raise _Unknown
    return _any([_test(one) for one in wanted])


def _are_texts(wanted: object) -> TypeGuard[list[str]]:
    return isinstance(wanted, list) and all(type(one) is str for one in wanted)


def _size(of: type[Any], holds: Callable[[int, int], bool]) -> Callable[[Any, Schema], Test]:
    def make(wanted: object, _: Schema) -> Test:
        if type(wanted) is not int:
            raise _Unknown
        return lambda value: type(value) is not of or holds(len(value), wanted)

    return make


def _number(holds: Callable[[float, float], bool]) -> Callable[[Any, Schema], Test]:
    def make(wanted: object, _: Schema) -> Test:
        if not isinstance(wanted, int | float) or isinstance(wanted, bool):
            raise _Unknown
        return lambda value: not _TYPES["number"](value) or holds(value, wanted)

    return make


_KEYWORDS: Final[Mapping[str, Callable[[Any, Schema], Test]]] = {
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "enum": _enum,
    "const": lambda wanted, schema: _enum([wanted], schema),
    "anyOf": _any_of,
    "minLength": _size(str, int.__ge__),
    "maxLength": _size(str, int.__le__),
    "minItems": _size(list, int.__ge__),
    "maxItems": _size(list, int.__le__),
    "minProperties": _size(dict, int.__ge__),
    "maxProperties": _size(dict, int.__le__),
    "minimum": _number(lambda value, least: value >= least),
    "maximum": _number(lambda value, most: value <= most),
    "exclusiveMinimum": _number(lambda value, below: value > below),
    "exclusiveMaximum": _number(lambda value, above: value < above),
}
