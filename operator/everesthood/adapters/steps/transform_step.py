"""The transform step: a value computed in CEL."""

from everesthood.domain.steps import TransformStep
from everesthood.usecases.expressions import Expressions
from everesthood.usecases.ports.worker import Scope


class TransformRunner:
    """Evaluates."""

    def __init__(self, expressions: Expressions) -> None:
        """Evaluate with these languages."""
        self._expressions = expressions

    async def run(self, scope: Scope, step: TransformStep) -> object:
        """Return the value of the expression."""
        return await self._expressions.evaluate(step.value, scope.variables)
