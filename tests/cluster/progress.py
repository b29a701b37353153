"""Progress lines: whoever waits sees what for, and afterwards how long it took."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """Print one line at once, also into a pipe; stderr keeps stdout for results."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Announce a long step and say how long it took; others may be under way at the same time."""
    say(f"· {text} …")
    begun = time.monotonic()
    yield
    what = text.partition(",")[0]
    say(f"  {time.monotonic() - begun:5.1f} s  {what}")


class Stopwatch:
    """Prints each phase with the seconds since the start."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun

    def mark(self, phase: str) -> None:
        say(f"  {self.seconds:5.1f} s  {phase}")
