"""YAML as kubectl reads it, built from nodes so that each field keeps its line.

Aliases are expanded under a cap, because nine lines of them can mean a billion values.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.scanner import RoundTripScanner

from everesthood.adapters.manifests.scalars import plain_value

MAX_BYTES: Final = 3_145_728
MAX_VALUES: Final = 100_000
_MOST_FLOW_LEVELS: Final = 200
_MERGE: Final = "<<"


class Unreadable(ValueError):  # noqa: N818 - reads as what it is
    """A text that is not YAML that a cluster would take; knows the line."""

    def __init__(self, line: int, message: str) -> None:
        """Keep the line, counted from 1."""
        super().__init__(message)
        self.line = line
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One document: plain JSON values, and the line of each path such as spec.steps[0].name."""

    value: Any
    line: int
    lines: dict[str, int] = field(default_factory=dict)

    def line_of(self, path: str) -> int:
        """Return the line of a path, or of the nearest one above it that is written."""
        while path:
            if path in self.lines:
                return self.lines[path]
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return self.line

    def members(self) -> Iterator["Document"]:
        """Yield the objects of a `kind: List`, or the document itself."""
        items = self.value.get("items") if isinstance(self.value, dict) else None
        if not isinstance(items, list) or self.value.get("kind") != "List":
            yield self
            return
        for index, item in enumerate(items):
            prefix = f"items[{index}]"
            yield Document(value=item, line=self.line_of(prefix), lines=self._under(prefix))

    def _under(self, prefix: str) -> dict[str, int]:
        start = f"{prefix}."
        return {path.removeprefix(start): line for path, line in self.lines.items() if path.startswith(start)}


def documents(text: str) -> Iterator[Document]:
    """Yield the documents of a text; raise Unreadable at the first that cannot be read."""
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise Unreadable(1, f"the file is larger than {MAX_BYTES} bytes")
    try:
        for node in _reader().compose_all(text):
            if node is not None:
                yield _Builder().document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "is not YAML"
        raise Unreadable(mark.line + 1 if mark else 1, f"not valid YAML: {problem}") from None
    except RecursionError:
        raise Unreadable(1, "the YAML is nested too deeply") from None
    except (YAMLError, ValueError) as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(1, f"not valid YAML: {str(error).splitlines()[0]}") from None


class _Scanner(RoundTripScanner):
    """Ends at a depth that nobody writes: each open bracket costs the library the more, the more are open."""

    def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:  # noqa: ANN401, N803 - its names
        if len(self.flow_context) >= _MOST_FLOW_LEVELS:
            raise RecursionError
        super().fetch_flow_collection_start(TokenClass, to_push)


def _reader() -> YAML:
    reader = YAML(typ="rt", pure=True)
    reader.Scanner = _Scanner
    return reader


class _Builder:
    """Builds one document and counts what it builds."""

    def __init__(self) -> None:
        self._left = MAX_VALUES
        self._lines: dict[str, int] = {}
        self._inside: set[int] = set()

    def document(self, node: Any) -> Document:  # noqa: ANN401 - the library's nodes are untyped
        value = self._value(node, "")
        return Document(value=value, line=_line(node), lines=self._lines)

    def _value(self, node: Any, path: str) -> Any:  # noqa: ANN401
        self._left -= 1
        if self._left < 0:
            message = f"its aliases expand to more than {MAX_VALUES} values"
            raise Unreadable(_line(node), message)
        if id(node) in self._inside:
            raise Unreadable(_line(node), "an alias contains itself")
        self._inside.add(id(node))
        value = self._built(node, path)
        self._inside.discard(id(node))
        return value

    def _built(self, node: Any, path: str) -> Any:  # noqa: ANN401
        match node:
            case MappingNode():
                return self._mapping(node, path)
            case SequenceNode():
                return [self._item(n, f"{path}[{i}]") for i, n in enumerate(node.value)]
            case ScalarNode():
                try:
                    return plain_value(node)
                except ValueError as error:
                    raise Unreadable(_line(node), str(error)) from None
        raise Unreadable(_line(node), "not valid YAML")

    def _item(self, node: Any, path: str) -> Any:  # noqa: ANN401
        self._lines[path] = _line(node)
        return self._value(node, path)

    def _mapping(self, node: Any, path: str) -> dict[str, Any]:  # noqa: ANN401
        out: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            if key == _MERGE:
                merged |= self._merged(value_node, path)
                continue
            if key in out:
                raise Unreadable(_line(key_node), f"{key} is set twice")
            where = f"{path}.{key}".removeprefix(".")
            self._lines[where] = _line(key_node)
            out[key] = self._value(value_node, where)
        return merged | out

    def _key(self, node: Any) -> str:  # noqa: ANN401
        if not isinstance(node, ScalarNode):
            raise Unreadable(_line(node), "a key must be text")
        return str(node.value)

    def _merged(self, node: Any, path: str) -> dict[str, Any]:  # noqa: ANN401
        value = self._value(node, path)
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            raise Unreadable(_line(node), "<< needs a mapping")
        return {key: item for part in reversed(parts) for key, item in part.items()}


def _line(node: Any) -> int:  # noqa: ANN401
    return int(node.start_mark.line) + 1
