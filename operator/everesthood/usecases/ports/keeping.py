"""What the record forgets in time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from everesthood.domain.keeping import Keeping

Kind = Literal["runs", "log_lines", "keys", "audit"]
KINDS: Final[tuple[Kind, ...]] = ("runs", "log_lines", "keys", "audit")
"""What the record forgets in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What one batch forgot, by what it was."""

    counts: Mapping[str, int]
    next: str | None
    """Where the next batch goes on; None at the end."""


class KeepStore(Protocol):
    """What is old, for the scheduler."""

    async def forget(self, kind: Kind, keeping: Keeping, after: str | None, limit: int) -> Forgotten:
        """Look at `limit` rows of a kind and forget those that are old by the record's own clock.

        Waits for nobody: a row that somebody holds is left to the next walk.
        """
        ...
