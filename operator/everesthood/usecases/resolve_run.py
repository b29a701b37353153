"""Resolve an ambiguous run: say what became of the step in doubt, and let the run go on or end."""

from everesthood.apis.reasons import Reason
from everesthood.domain.approvals import LONGEST_COMMENT
from everesthood.domain.doubts import Resolution
from everesthood.domain.errors import Invalid, Problem
from everesthood.domain.steps import MAX_OUTPUT_BYTES
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import ControlStore


async def resolve_run(control: ControlStore, bell: Bell, said: Resolution) -> None:
    """Commit the resolution and wake the run's workers where it goes on."""
    if len(said.comment) > LONGEST_COMMENT:
        what = f"must be at most {LONGEST_COMMENT} characters"
        raise Invalid(f"The comment {what}.", problems=(Problem("/comment", what),))
    if len(said.output) > MAX_OUTPUT_BYTES:
        what = f"is larger than {MAX_OUTPUT_BYTES} bytes"
        raise Invalid(f"The output {what}.", Reason.OUTPUT_TOO_LARGE, (Problem("/output", what),))
    for queue in await control.resolve(said):
        await bell.ring(*queue)
