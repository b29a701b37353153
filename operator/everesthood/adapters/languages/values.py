"""Values on their way into an expression or a template: bounded in depth, and beyond reach.

A template may call methods of what it is given. A frozen value has only those that read, so that
no template can change what later steps see or build a value that contains itself.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from everesthood.domain.errors import ExpressionFailed

MAX_DEPTH: Final = 64


class Frozen(dict[str, Any]):
    """A mapping whose only methods are the four that read."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        """Refuse every attribute but the readers."""
        match name:
            case "items":
                return lambda: tuple((key, self[key]) for key in self)
            case "keys":
                return lambda: tuple(self)
            case "values":
                return lambda: tuple(self[key] for key in self)
            case "get":
                return lambda key, default=None: self[key] if key in self else default  # noqa: SIM401
            case "__class__":
                return Frozen
        raise AttributeError(f"a value has no method {name}")


def frozen(value: object, *, depth: int = 0) -> object:
    """Return the value as templates may see it."""
    if depth > MAX_DEPTH:
        raise ExpressionFailed(f"a value is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return Frozen({str(k): frozen(v, depth=depth + 1) for k, v in value.items()})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(v, depth=depth + 1) for v in value)
    return value


def written(value: object) -> object:
    """Return what a template prints: text as it is, everything else as JSON."""
    if value is None or isinstance(value, (bool, dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False)
    return value


def check_depth(value: object, encoded: bytes) -> None:
    """Refuse a value that is nested too deeply, without walking those that cannot be."""
    if encoded.count(b"[") + encoded.count(b"{") > MAX_DEPTH:
        frozen(value)
