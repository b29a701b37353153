"""When a worker asks for work: at once while there is some, then briefly, then only when the bell rings.

The order that leaves no gap: after a short claim it asks again every 5 ms; after 20 ms of nothing it has
the gateway forget the bell and claims once more in that call; only then does it wait. So a run that
comes before that last claim is found by it, and one that comes after rings. A run that is due later, or
that a limit keeps back, rings for nobody: for it the gateway says in how long to come back.
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
        self._looked_at = now
        self._alarm_at: float | None = None

    def settles(self, now: float) -> bool:
        """Return whether a call now is to forget the bell first: after it the worker may wait."""
        return self.mood in ("settling", "waiting") and self.pause(now) == 0.0

    def rung(self) -> None:
        """Note that the bell rang."""
        self.mood = "hungry"

    def due_later(self) -> None:
        """Note that a run was handed in which is due again later: ask when."""
        if self.mood == "waiting":
            self.mood = "settling"

    def claimed(
        self,
        want: int,
        got: int,
        *,
        settled: bool,
        now: float,
        next_due_in: float | None = None,
        denied: bool = False,
    ) -> None:
        """Note what a call brought. A bell that rang while it was under way keeps the worker hungry.

        But for who was denied: what is due is known, and looking closely would not bring it nearer.
        """
        self._last_call = now
        if want == 0:
            return
        if settled or denied:
            self._set_alarm(next_due_in, now)
        if got:
            self._last_find = now
        self.mood = "waiting" if denied else self._mood_after(want, got, settled=settled, now=now)

    def _mood_after(self, want: int, got: int, *, settled: bool, now: float) -> Mood:
        if got == want:
            return "hungry"
        if got or self.mood == "hungry":
            self._last_find = now
            return "polling"
        if settled:
            return "waiting"
        if self.mood == "polling" and now - self._last_find >= SETTLE_AFTER_SECONDS:
            return "settling"
        return self.mood

    def _set_alarm(self, seconds: float | None, now: float) -> None:
        self._looked_at = now
        self._alarm_at = None if seconds is None else now + max(seconds, POLL_SECONDS)

    def pause(self, now: float) -> float:
        """Return how long to wait before asking for work, 0 for not at all."""
        match self.mood:
            case "hungry" | "settling":
                return 0.0
            case "polling":
                return max(0.0, self._last_call + POLL_SECONDS - now)
            case "waiting":
                until = self._looked_at + SLOW_POLL_SECONDS
                return max(0.0, min(until, self._alarm_at or until) - now)
