"""What a duty is: something that nobody calls for and that one process at a time does."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass

_SHORTEST_TIMEOUT_SECONDS = 30.0
_SHORTEST_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """Something to do every few seconds, and at once when `hints` yields."""

    name: str
    period_seconds: float
    work: Callable[[], Awaitable[Mapping[str, int]]]
    """Does one pass and counts what it did."""
    hints: Callable[[], AsyncIterator[None]] | None = None

    @property
    def timeout_seconds(self) -> float:
        """Return when a pass is given up: a hung one must not hold the duty for ever."""
        return max(_SHORTEST_TIMEOUT_SECONDS, 10 * self.period_seconds)

    @property
    def patience_seconds(self) -> float:
        """Return how old the last success of a leader may be before it counts as unwell."""
        return max(_SHORTEST_PATIENCE_SECONDS, 3 * self.period_seconds)
