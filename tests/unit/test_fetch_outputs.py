"""A run whose earlier outputs were held back gets all of them before it goes on."""

import msgspec
import pytest

from everesthood.apis.wire import Assignment, OutputsReply, OutputsRequest, StepOutput, StepRecord
from everesthood.domain.errors import Refused, Unavailable
from everesthood.usecases.fetch_outputs import fetch_outputs


class Gateway:
    """Gives one output at a time, after the failures that it was told of."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[tuple[str, ...]] = []

    async def outputs(self, request: OutputsRequest) -> OutputsReply:
        self.asked.append(request.steps)
        if self.failures:
            raise self.failures.pop(0)
        name = request.steps[0]
        output = msgspec.Raw(msgspec.json.encode(name.upper()))
        return OutputsReply(outputs=(StepOutput(step=name, output=output),))


def assignment(*steps: StepRecord) -> Assignment:
    return Assignment(
        run="r", fence=2, attempt=2, input=msgspec.Raw(b"{}"), request_id="q", seconds_left=60.0,
        lease_seconds=30, steps=steps,
    )  # fmt: skip


HERE = StepRecord(name="a", state="succeeded", output=msgspec.Raw(b'"here"'))
AWAY = [StepRecord(name=name, state="succeeded", is_held_back=True) for name in ("b", "c")]


async def no_sleep(_: float) -> None: ...


async def test_every_output_is_fetched_page_by_page() -> None:
    """What is there is kept, what is missing is asked for until nothing is."""
    gateway = Gateway()

    whole = await fetch_outputs(gateway, assignment(HERE, *AWAY))  # type: ignore[arg-type]

    assert [bytes(found.output) for found in whole.steps] == [b'"here"', b'"B"', b'"C"']
    assert not any(found.is_held_back for found in whole.steps)
    assert gateway.asked == [("b", "c"), ("c",)]


async def test_nothing_is_asked_where_nothing_is_missing() -> None:
    """A run whose outputs are small costs no second call."""
    gateway, given = Gateway(), assignment(HERE)

    assert await fetch_outputs(gateway, given) is given  # type: ignore[arg-type]
    assert gateway.asked == []


async def test_a_gateway_that_is_away_is_waited_for() -> None:
    """A run is not failed for a gateway that restarts."""
    gateway = Gateway(Unavailable("away"), Unavailable("away"))

    whole = await fetch_outputs(gateway, assignment(*AWAY), sleep=no_sleep)  # type: ignore[arg-type]

    assert (len(gateway.asked), [bytes(s.output) for s in whole.steps]) == (4, [b'"B"', b'"C"'])


async def test_a_run_that_is_no_longer_held_is_not_gone_on_with() -> None:
    """Who lost the run learns so."""
    with pytest.raises(Refused):
        await fetch_outputs(Gateway(Refused("not yours")), assignment(*AWAY))  # type: ignore[arg-type]
