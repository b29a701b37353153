"""An example of what a JSON Schema takes: the first input that a newcomer sends."""

from collections.abc import Callable, Mapping
from typing import Any, Final

Schema = Mapping[str, Any]
_DEEPEST: Final = 8
_TEXT: Final = "text"
_FORMATS: Final = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "0190c3a4-0000-7000-8000-000000000000",
}


def example(schema: Schema, is_good: Callable[[object], bool]) -> object | None:
    """Return a small value that the schema takes by `is_good`; None where none is easily found."""
    found = _of(schema, _DEEPEST)
    return found if is_good(found) else None


def _of(schema: Schema, depth: int) -> object:
    given = _given(schema)
    if given:
        return given[0]
    kind = schema.get("type", "object" if "properties" in schema else None)
    kind = kind[0] if isinstance(kind, list) and kind else kind
    found: object = {} if kind in (None, "object") else None
    match kind:
        case "object" if depth:
            parts = schema.get("properties", {})
            found = {name: _of(parts.get(name, {}), depth - 1) for name in schema.get("required", ())}
        case "array" if depth:
            found = [_of(schema.get("items", {}), depth - 1)] * schema.get("minItems", 0)
        case "integer" | "number":
            found = _number(schema)
        case "boolean":
            found = True
        case "string":
            found = _text(schema)
    return found


def _given(schema: Schema) -> list[object]:
    """Return a value that the author wrote down, if there is one."""
    for found in (schema.get("examples"), schema.get("enum")):
        if isinstance(found, list) and found:
            return [found[0]]
    return [schema[name] for name in ("default", "const") if name in schema][:1]


def _number(schema: Schema) -> object:
    for name, step in (("minimum", 0), ("exclusiveMinimum", 1), ("maximum", 0), ("exclusiveMaximum", -1)):
        if name in schema:
            return schema[name] + step
    return 1


def _text(schema: Schema) -> str:
    text: str = _FORMATS.get(schema.get("format", ""), _TEXT)
    text += "x" * (schema.get("minLength", 0) - len(text))
    longest: int = schema.get("maxLength", len(text))
    return text[:longest]
