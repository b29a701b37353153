"""Fetch the outputs that a claim left behind, because together they are large, before a run goes on."""

import asyncio
import logging
from typing import Final

import msgspec

from everesthood.apis.wire import Assignment, OutputsRequest
from everesthood.domain.errors import Forbidden, Unauthenticated, Unavailable
from everesthood.usecases.ports.worker import Gateway, Sleep

log = logging.getLogger(__name__)

_MOST_NAMES: Final = 1000
_PAUSE_SECONDS: Final = 1.0


async def fetch_outputs(gateway: Gateway, given: Assignment, *, sleep: Sleep = asyncio.sleep) -> Assignment:
    """Return the assignment with every output in it, page by page; as it is where nothing is missing.

    While the gateway cannot be asked this goes on trying: the run is held as long as its lease is renewed.

    Raises:
        Refused: the run is not this worker's any more.
    """
    missing = [step.name for step in given.steps if step.is_held_back]
    if not missing:
        return given
    outputs: dict[str, msgspec.Raw] = {}
    while missing:
        request = OutputsRequest(run=given.run, fence=given.fence, steps=tuple(missing[:_MOST_NAMES]))
        try:
            page = await gateway.outputs(request)
        except (Unavailable, Unauthenticated, Forbidden) as error:
            log.warning("outputs of run %s cannot be fetched; trying again: %s", given.run, error.message)
            await sleep(_PAUSE_SECONDS)
            continue
        outputs |= {output.step: output.output for output in page.outputs}
        missing = [name for name in missing if name not in outputs]
    steps = (
        msgspec.structs.replace(step, output=outputs[step.name], is_held_back=False)
        if step.is_held_back
        else step
        for step in given.steps
    )
    return msgspec.structs.replace(given, steps=tuple(steps))
