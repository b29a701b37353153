"""Expressions and templates on the worker's loop: short ones at once, those that may be long in a thread."""

import asyncio
from collections.abc import Mapping

from everesthood.usecases.ports.worker import Languages


class Expressions:
    """Evaluates an author's expressions without holding up the other runs."""

    def __init__(self, languages: Languages) -> None:
        """Speak these languages."""
        self._languages = languages

    async def evaluate(self, expression: str, variables: Mapping[str, object]) -> object:
        """Return the JSON value of a CEL expression, or raise ExpressionFailed."""
        if "(" in expression:
            return await asyncio.to_thread(self._languages.evaluate, expression, variables)
        return self._languages.evaluate(expression, variables)  # nothing is called, so nothing loops

    async def render(self, text: str, variables: Mapping[str, object]) -> str:
        """Return a template with its variables filled in, or raise ExpressionFailed."""
        if "{%" in text:
            return await asyncio.to_thread(self._languages.render, text, variables)
        if "{{" not in text:
            return text if "{#" not in text else self._languages.render(text, variables)
        return self._languages.render(text, variables)

    async def problems(self, schema: Mapping[str, object], value: object) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) for each place where the value breaks the schema."""
        return await asyncio.to_thread(self._languages.check, schema, value)

    async def schema_problems(self, schema: Mapping[str, object]) -> list[tuple[str, str]]:
        """Return (JSON pointer, problem) of a schema that nobody has looked at yet."""
        return await asyncio.to_thread(self._languages.schema_problems, schema)
