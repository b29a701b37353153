"""How long the record keeps what is over, and what of it is old enough to be forgotten."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from everesthood.domain.runs import FINAL, RunState

_NEVER: Final = datetime.fromtimestamp(0, UTC)
"""Nothing of ours is older."""
_FOR_PEOPLE: Final = frozenset({RunState.DEAD, RunState.AMBIGUOUS})
"""What somebody may still want to look at, and to replay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Days for which each kind is kept; 0 means for ever."""

    runs: int
    """Runs that succeeded, were cancelled or expired, with their steps and labels."""
    dead_runs: int
    """Runs that are dead or ambiguous."""
    log_lines: int
    """Lines of runs' logs; a run that is forgotten takes its lines along in any case."""
    keys: int
    """Idempotency keys."""
    audit: int
    """Lines of the audit log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """The moments before which each kind is old."""

    runs: datetime
    dead_runs: datetime
    log_lines: datetime
    keys: datetime
    audit: datetime

    @property
    def any_run(self) -> datetime:
        """Return the moment after which no accepted run is old enough, whatever became of it."""
        return max(self.runs, self.dead_runs)


def bounds(keeping: Keeping, now: datetime) -> Bounds:
    """Return what is old at this moment."""
    return Bounds(
        runs=_before(keeping.runs, now),
        dead_runs=_before(keeping.dead_runs, now),
        log_lines=_before(keeping.log_lines, now),
        keys=_before(keeping.keys, now),
        audit=_before(keeping.audit, now),
    )


def _before(days: int, now: datetime) -> datetime:
    return now - timedelta(days=days) if days else _NEVER


def is_old(state: RunState, finished_at: datetime | None, old: Bounds) -> bool:
    """Return whether a run may be forgotten: it is over, for long enough."""
    if state not in FINAL or finished_at is None:
        return False
    return finished_at < (old.dead_runs if state in _FOR_PEOPLE else old.runs)
