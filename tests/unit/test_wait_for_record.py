"""A process that starts before the record waits for it, and for nothing that cannot come."""

import asyncio

import pytest

from everesthood.domain.errors import Conflict, Unavailable
from everesthood.usecases.wait_for_record import wait_for_record


class Record:
    """Comes up after some checks."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers = list(answers)

    async def check(self) -> None:
        answer = self.answers.pop(0)
        if answer is not None:
            raise answer


async def test_a_record_that_comes_late_is_waited_for(caplog):
    """An installation whose migration runs beside its processes needs no restart, and the log says why it waits."""
    record = Record(Unavailable("PostgreSQL is away"), Unavailable("run `everesthood migrate`"), None)

    assert await wait_for_record(record.check, pause_seconds=0)
    assert record.answers == []
    assert "waits for the record: run `everesthood migrate`" in caplog.text


async def test_a_schema_of_another_version_is_not_waited_for():
    """A program that is too old for its database ends at once with the reason."""
    with pytest.raises(Conflict, match="newer"):
        await wait_for_record(Record(Conflict("the schema is newer")).check)


async def test_whoever_is_told_to_stop_waits_no_longer():
    """SIGTERM ends a process that still waits."""
    stop = asyncio.Event()
    stop.set()

    assert not await wait_for_record(Record().check, stop=stop)
