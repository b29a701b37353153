"""Turns a Pydantic model into a structural OpenAPI schema, as a CustomResourceDefinition wants it.

Pydantic writes references, `anyOf` with null and closed objects; the API server allows none of them.
"""

from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from everesthood.apis.v1alpha1.fields import DNS_LABEL

Schema = dict[str, Any]

_DROPPED: Final = frozenset({"title", "$defs", "additionalProperties", "const"})
_RULES: Final = "x-kubernetes-validations"


@cache
def resource_schema(kind: type[BaseModel]) -> Schema:
    """Return the whole `openAPIV3Schema` of a kind. Do not change what is returned."""
    raw = kind.model_json_schema(by_alias=True)
    parts = _Structural(raw.get("$defs", {})).convert(raw)["properties"]
    return {
        "description": (kind.__doc__ or "").strip(),
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the schema of this object."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": _metadata(),
            "spec": parts["spec"],
            "status": _without_defaults(parts["status"]),
        },
    }


def _metadata() -> Schema:
    name = {
        "type": "string",
        "maxLength": 63,
        "pattern": DNS_LABEL,
        "description": "Name of the object: lower-case letters, digits and hyphens.",
    }
    # The API server allows nothing more here, not even a description.
    return {"type": "object", "properties": {"name": name}}


class _Structural:
    """Carries the definitions while references are replaced by what they point to."""

    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, raw: Schema) -> Schema:
        node = self._inlined(raw)
        out = {key: value for key, value in node.items() if key not in _DROPPED}
        if "const" in node:
            out["enum"] = [node["const"]]
        if out.get("type") == "integer":
            out["format"] = "int64"
        if "properties" in out:
            self._members(out)
        if "items" in out:
            out["items"] = self.convert(out["items"])
        return _ordered(_plain_default(out))

    def _members(self, out: Schema) -> None:
        out["properties"] = {name: self.convert(part) for name, part in out["properties"].items()}

    def _inlined(self, node: Schema) -> Schema:
        """Replace `$ref` and `anyOf: [X, null]` by X; what stands beside them wins."""
        if "$ref" in node:
            target = self._inlined(self._definitions[node["$ref"].rpartition("/")[2]])
            return _merged(target, {k: v for k, v in node.items() if k != "$ref"})
        if "anyOf" in node:
            chosen = [part for part in node["anyOf"] if part != {"type": "null"}]
            if len(chosen) != 1:
                msg = f"a field may have one type only: {node}"
                raise ValueError(msg)
            return _merged(self._inlined(chosen[0]), {k: v for k, v in node.items() if k != "anyOf"})
        return node


def _merged(under: Schema, over: Schema) -> Schema:
    both = under | over
    if _RULES in under and _RULES in over:
        both[_RULES] = under[_RULES] + over[_RULES]
    return both


def _plain_default(node: Schema) -> Schema:
    """Leave out null defaults; an object's default is empty, since its fields have their own."""
    if "default" not in node:
        return node
    if node["default"] is None:
        return {key: value for key, value in node.items() if key != "default"}
    return node | {"default": {} if node.get("type") == "object" else node["default"]}


def _without_defaults(node: Schema) -> Schema:
    """Return a status: the controller fills it, the API server must not."""
    out = {key: value for key, value in node.items() if key != "default"}
    if "properties" in out:
        out["properties"] = {k: _without_defaults(v) for k, v in out["properties"].items()}
    if "items" in out:
        out["items"] = _without_defaults(out["items"])
    return out


_ORDER: Final = ("description", "type", "format", "enum", "default", "required", "properties", "items")


def _ordered(node: Schema) -> Schema:
    first = {key: node[key] for key in _ORDER if key in node}
    return first | {key: node[key] for key in sorted(node) if key not in first}
