"""Writes the API reference page from the schemas of the kinds."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from everesthood.apis import names
from everesthood.apis.v1alpha1.meta import Resource

_INTRO: Final = f"""# API reference

Generated from the types by `make generate`; `kubectl explain` says the same.
All kinds are in `{names.API_VERSION}`, live in a namespace and share the category `{names.CATEGORY}`:
`kubectl get {names.CATEGORY}` lists them all.
Fields in **bold** are required.
"""


def reference(kinds: Sequence[tuple[Resource, dict[str, Any]]]) -> str:
    """Return the page."""
    return "\n".join([_INTRO, *(_kind(served, schema) for served, schema in kinds)])


def _kind(served: Resource, schema: dict[str, Any]) -> str:
    lines = [f"## {served.kind}", "", schema["description"], ""]
    lines += [f"`kubectl get {served.plural}`, short `{served.short}`.", ""]
    for part in ("spec", "status"):
        lines += [f"### {served.kind} {part}", ""]
        lines += ["| field | type | meaning |", "|---|---|---|"]
        lines += [_row(*field) for field in _fields(schema["properties"][part], part)]
        lines += ["", *_rules(schema["properties"][part], part)]
    return "\n".join(lines)


def _fields(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, part in node.get("properties", {}).items():
        yield f"{path}.{name}", part, name in node.get("required", ())
        inner, suffix = (part.get("items", {}), "[]") if part["type"] == "array" else (part, "")
        yield from _fields(inner, f"{path}.{name}{suffix}")


def _row(path: str, node: dict[str, Any], required: bool) -> str:
    name = f"**`{path}`**" if required else f"`{path}`"
    text = str(node.get("description", "")).replace("|", "\\|").replace("\n", " ")
    return f"| {name} | {_type(node)} | {text}{_bounds(node)} |"


def _type(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " \\| ".join(f"`{value}`" for value in node["enum"])
    if node["type"] == "array":
        return f"list of {_type(node['items'])}"
    return str(node["type"])


_SAID: Final = {
    "default": "Default `{}`.",
    "minLength": "At least {} characters.",
    "maxLength": "At most {} characters.",
    "minItems": "At least {} items.",
    "maxItems": "At most {} items.",
    "minimum": "At least {}.",
    "maximum": "At most {}.",
}


def _bounds(node: dict[str, Any]) -> str:
    said = [
        text.format(_value(node[key]))
        for key, text in _SAID.items()
        if key in node and node[key] not in ({}, [], "", 0)
    ]
    return "".join(f" {sentence}" for sentence in said)


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rules(node: dict[str, Any], path: str) -> list[str]:
    found = [f"- `{where}`: {rule['message']}." for where, rule in _found_rules(node, path)]
    return ["Rules:", "", *dict.fromkeys(found), ""] if found else []


def _found_rules(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for rule in node.get("x-kubernetes-validations", ()):
        yield path, rule
    for name, part in node.get("properties", {}).items():
        yield from _found_rules(part, f"{path}.{name}")
    if "items" in node:
        yield from _found_rules(node["items"], f"{path}[]")
