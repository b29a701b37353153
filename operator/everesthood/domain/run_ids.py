"""Ids of runs: UUIDs of version 7, so that their order is the order of acceptance."""

import math
import re
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from everesthood.domain.runs import RunId

RANDOM_BYTES: Final = 10
_FORM: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def uuid7(*, now: datetime, randomness: bytes) -> UUID:
    """Return the UUIDv7 (RFC 9562, 5.7) of a moment, to the millisecond, and 10 random bytes."""
    return UUID(uuid7_text(int(now.timestamp() * 1000), randomness))


def uuid7_text(milliseconds: int, randomness: bytes) -> str:
    """Return the same id as text, for whoever needs many."""
    tail = int.from_bytes(randomness[:RANDOM_BYTES], "big")
    high = (milliseconds << 16) | 0x7000 | (tail >> 62) & 0x0FFF
    low = (0b10 << 62) | tail & ((1 << 62) - 1)
    digits = f"{high:016x}{low:016x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def first_at(moment: datetime) -> RunId:
    """Return what no id of that moment or later is below, and every earlier one is."""
    milliseconds = math.ceil(round(moment.timestamp() * 1000, 3))
    return RunId(str(UUID(int=(milliseconds << 80) | (0x7 << 76) | (0b10 << 62))))


def accepted_at(run: RunId) -> datetime:
    """Return the moment inside an id."""
    return datetime.fromtimestamp(int(run[:8] + run[9:13], 16) / 1000, tz=UTC)


def parse(text: str) -> RunId | None:
    """Return the text as a run's id if it is one, in its one canonical form."""
    return RunId(text) if _FORM.fullmatch(text) else None
