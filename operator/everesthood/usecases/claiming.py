"""When a worker asks for work: at once while there is some, then briefly, then only when the bell rings.

The order that leaves no gap: after a short claim it asks again every 5 ms; after 20 ms of nothing it has
the gateway forget the bell and claims once more in that call; only then does it wait. So a run that
comes before that last claim is found by it, and one that comes after rings.
"""

from typing import Final, Literal

POLL_SECONDS: Final = 0.005
SETTLE_AFTER_SECONDS: Final = 0.020
SLOW_POLL_SECONDS: Final = 30.0

Mood = Literal["hungry", "polling", "settling", "waiting"]


class Claiming:
    """Remembers what the last claims brought."""

    def __init__(self, now: float) -> None:
        """Begin hungry: a worker that starts looks for work."""
        self.mood: Mood = "hungry"
        self._last_find = now
        self._last_call = now

    def rung(self) -> None:
        """Note that the bell rang."""
        self.mood = "hungry"

    def claimed(self, want: int, got: int, *, settled: bool, now: float) -> None:
        """Note what a call brought. A bell that rang while it was under way keeps the worker hungry."""
        self._last_call = now
        if want == 0:
            return
        if got:
            self._last_find = now
        if got == want:
            self.mood = "hungry"
        elif got or self.mood == "hungry":
            self.mood, self._last_find = "polling", now
        elif settled:
            self.mood = "waiting"
        elif self.mood == "polling" and now - self._last_find >= SETTLE_AFTER_SECONDS:
            self.mood = "settling"

    def pause(self, now: float) -> float:
        """Return how long to wait before asking for work, 0 for not at all."""
        match self.mood:
            case "hungry" | "settling":
                return 0.0
            case "polling":
                return max(0.0, self._last_call + POLL_SECONDS - now)
            case "waiting":
                return max(0.0, self._last_call + SLOW_POLL_SECONDS - now)
