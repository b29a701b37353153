"""Queues and organisations as people control them: three different stops, none of them another's."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

LONGEST_MESSAGE: Final = 1000
STOPPED: Final = (
    "The organisation is stopped, and nothing is accepted until it is started again;"
    " `everesthood queue show` says by whom and why."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A person holds a queue: what runs goes on, nothing is handed out."""

    at: datetime
    by: str

    def __str__(self) -> str:
        """Return it as a person reads it."""
        return f"Paused by {self.by} since {self.at:%Y-%m-%d %H:%M:%S} UTC; what is accepted waits."


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """A person stopped an organisation: nothing is accepted, nothing starts."""

    at: datetime
    by: str
    message: str
    cancels: bool
    """Whether what ran is cancelled."""

    def __str__(self) -> str:
        """Return it as a person reads it."""
        why = f": {self.message}" if self.message else ""
        return f"The organisation was stopped by {self.by} at {self.at:%Y-%m-%d %H:%M:%S} UTC{why}."


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue: what holds it, and how much is in it."""

    namespace: str
    instance: str
    suspended: bool
    """spec.suspend, the owner's intent: nothing new starts."""
    current_revision: str | None
    pause: Pause | None
    stop: Stop | None
    due: int
    """Runs that could start now."""
    later: int
    """Runs whose time is still to come."""
    running: int
    waiting: int
    """Runs that wait for a person."""
    oldest_due_at: datetime | None
