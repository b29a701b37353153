"""The API server's own checks, done without one: defaults, types, bounds, CEL rules, unique lists.

They read the same schema that the CRDs carry, so that a manifest gets the same verdict offline.
"""

import copy
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from everesthood.apis.v1alpha1 import fields
from everesthood.domain.errors import ExpressionFailed, Problem
from everesthood.domain.languages import Languages

Schema = Mapping[str, Any]

_PATTERNS: Final = {
    fields.DNS_LABEL: (
        "must be lower-case letters, digits and hyphens, beginning and ending with a letter or digit"
    ),
    fields.HOST: ("must be a host name, with a port where needed, such as api.example.com:8443"),
    fields.STEP_NAME: "must be lower-case letters, digits and underscores, beginning with a letter",
    fields.ENV_NAME: "must be capital letters, digits and underscores, beginning with a letter",
    fields.ENTRYPOINT: "must be package.module:function",
    fields.DECIMAL: "must be a decimal number such as 0.25, with at most nine decimals",
    fields.QUANTITY: "must be a quantity such as 100m or 256Mi",
}
_TYPES: Final = {
    "string_type": "a string",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_KINDS: Final = ((bool, "a boolean"), (str, "a string"), (int, "a number"), (float, "a number"),
                 (list, "a list"), (dict, "an object"))  # fmt: skip


def with_defaults(schema: Schema, value: object) -> object:
    """Return a copy as the API server stores it: nulls dropped, then defaults filled in."""
    return _defaulted(schema, copy.deepcopy(value))


def _defaulted(schema: Schema, value: object) -> object:
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if value.get(name) is None:
                value.pop(name, None)
                if "default" in part:
                    value[name] = copy.deepcopy(part["default"])
            if name in value:
                value[name] = _defaulted(part, value[name])
    if isinstance(value, list) and "items" in schema:
        return [_defaulted(schema["items"], item) for item in value]
    return value


def _below(schema: Schema, value: object, path: str) -> Iterator[tuple[str, Schema, Any, str]]:
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                yield name, part, value[name], f"{path}.{name}".removeprefix(".")
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield str(index), schema["items"], item, f"{path}[{index}]"


def rule_problems(schema: Schema, value: object, path: str, languages: Languages) -> Iterator[Problem]:
    """Yield broken CEL rules and doubled entries of lists that are sets or maps."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and not _holds(rule["rule"], value, languages):
            yield Problem(path, rule["message"])
    if isinstance(value, list):
        yield from _doubled(schema, value, path)
    for _, part, below, where in _below(schema, value, path):
        yield from rule_problems(part, below, where, languages)


def _holds(rule: str, value: object, languages: Languages) -> bool:
    try:
        return languages.evaluate(rule, {"self": value}) is True
    except ExpressionFailed:
        return False


def _doubled(schema: Schema, value: list[Any], path: str) -> Iterator[Problem]:
    keys = schema.get("x-kubernetes-list-map-keys")
    if schema.get("x-kubernetes-list-type") not in ("set", "map"):
        return
    seen: list[object] = []
    for index, item in enumerate(value):
        identity = [item.get(key) for key in keys] if keys and isinstance(item, dict) else [item]
        if identity in seen:
            shown = ", ".join(map(str, identity))
            yield Problem(f"{path}[{index}]", f"{shown} is already in the list")
        seen.append(identity)


def model_problems(kind: type[BaseModel], error: ValidationError) -> Iterator[Problem]:
    """Yield Pydantic's complaints as sentences."""
    for found in error.errors(include_url=False):
        path = dotted(found["loc"])
        yield Problem(path, _sentence(kind, found))


def dotted(location: tuple[int | str, ...]) -> str:
    """Return a path such as spec.steps[0].http.url."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}"
    return out.removeprefix(".")


def _sentence(kind: type[BaseModel], found: Mapping[str, Any]) -> str:
    name, context = found["type"], found.get("ctx", {})
    if name in _TYPES:
        return f"must be {_TYPES[name]}, not {_kind_of(found['input'])}"
    match name:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return _unknown(kind, found["loc"])
        case "string_pattern_mismatch":
            return _PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
        case "literal_error":
            return f"must be {context['expected'].replace(chr(39), '')}"
        case _:
            return _bound(name, context, found)


def _bound(name: str, context: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    match name:
        case "string_too_long":
            length = len(found["input"])
            text = f"must be at most {context['max_length']} characters long, and has {length}"
        case "string_too_short" | "too_short":
            text = _at_least(context["min_length"])
        case "too_long":
            text = f"must have at most {context['max_length']} entries, and has {context['actual_length']}"
        case "greater_than_equal":
            text = f"must be at least {context['ge']}"
        case "less_than_equal":
            text = f"must be at most {context['le']}"
        case _:
            text = str(found["msg"])
    return text


def _at_least(count: int) -> str:
    return "must not be empty" if count == 1 else f"must be at least {count} long"


def _kind_of(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "nothing")


def _unknown(kind: type[BaseModel], location: tuple[int | str, ...]) -> str:
    known = _names(kind, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    return "is not a field" + (f"; did you mean {close[0]}?" if close else "")


def _names(kind: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields of the object at a location."""
    model: type[BaseModel] | None = kind
    for part in location:
        if model is not None and isinstance(part, str):
            model = _model_of(model, part)
    fields_of = model.model_fields if model else {}
    return [field.alias or name for name, field in fields_of.items()]


def _model_of(model: type[BaseModel], alias: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if alias in (field.alias, name):
            return _inner(field.annotation)
    return None


def _inner(annotation: object) -> type[BaseModel] | None:
    """Return the model inside `X`, `X | None`, `list[X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _inner(part)
        if found:
            return found
    return None
