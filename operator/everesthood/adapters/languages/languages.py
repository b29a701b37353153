"""The one object through which everything else meets the three languages."""

from collections.abc import Callable, Mapping
from types import ModuleType

from everesthood.adapters.languages import cel, templates
from everesthood.domain.languages import References


def _schemas() -> ModuleType:
    """Import JSON Schema when it is first needed: it takes longer than all else a worker starts with."""
    from everesthood.adapters.languages import schemas  # noqa: PLC0415

    return schemas


class Languages:
    """Evaluates and reads CEL, templates and JSON Schema; implements `domain.languages.Languages`.

    Safe to share between threads. Every call is bounded in time and memory. `evaluate` may take up
    to five seconds, so call it from a thread where a loop must go on.
    """

    def evaluate(self, expression: str, variables: Mapping[str, object]) -> object:
        """Return the JSON value of a CEL expression, or raise ExpressionFailed."""
        return cel.evaluate(expression, variables)

    def render(self, text: str, variables: Mapping[str, object]) -> str:
        """Return a template with its variables filled in, or raise ExpressionFailed."""
        return templates.render(text, variables)

    def check(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) for each place where the value breaks the schema."""
        found: list[tuple[str, str]] = _schemas().check(schema, value)
        return found

    def quick_test(self, schema: Mapping[str, object]) -> Callable[[object], bool]:
        """Return a test whose yes is sure, and whose no says nothing: for that, `check`."""
        from everesthood.adapters.languages import quick  # noqa: PLC0415 - as above

        return quick.prepared(schema)

    def expression_problem(self, expression: str) -> str | None:
        """Return what is wrong with the syntax of a CEL expression."""
        return cel.problem(expression)

    def expression_references(self, expression: str) -> References:
        """Return what a CEL expression refers to."""
        return cel.compiled(expression).scan.references()

    def template_problem(self, text: str) -> str | None:
        """Return what is wrong with the syntax of a template."""
        return templates.problem(text)

    def template_references(self, text: str) -> References:
        """Return what a template refers to."""
        return templates.references(text)

    def schema_problems(self, schema: Mapping[str, object]) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a JSON Schema."""
        found: list[tuple[str, str]] = _schemas().problems(schema)
        return found
