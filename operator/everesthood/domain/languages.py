"""What rules need to know of the languages inside a manifest, without knowing their engines."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """What an expression or a template refers to."""

    roots: frozenset[str] = frozenset()
    """Variables that it does not bind itself."""
    steps: frozenset[str] = frozenset()
    """Names n of `steps.n`."""
    functions: frozenset[str] = frozenset()
    """Functions and macros that it calls."""
    whole_steps: bool = False
    """It uses `steps` other than by a name that can be read off."""
    loops: int = 0
    """How deeply its loops are nested."""


class Languages(Protocol):
    """CEL, templates and JSON Schema. Problems are sentences, without the field."""

    def expression_problem(self, expression: str) -> str | None:
        """Return what is wrong with the syntax of a CEL expression."""
        ...

    def expression_references(self, expression: str) -> References:
        """Return what a CEL expression without syntax problems refers to."""
        ...

    def template_problem(self, text: str) -> str | None:
        """Return what is wrong with the syntax of a template."""
        ...

    def template_references(self, text: str) -> References:
        """Return what a template without syntax problems refers to."""
        ...

    def schema_problems(self, schema: Mapping[str, object]) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a JSON Schema."""
        ...

    def check(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a value against a schema."""
        ...

    def evaluate(self, expression: str, variables: Mapping[str, object]) -> object:
        """Return the value of a CEL expression, or raise ExpressionFailed."""
        ...
