"""Approve or reject what a run asks."""

from everesthood.domain.approvals import LONGEST_COMMENT, Decision
from everesthood.domain.errors import Invalid, Problem
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import ControlStore


async def decide_approval(control: ControlStore, bell: Bell, said: Decision) -> None:
    """Commit the answer and wake the run's workers where it goes on."""
    if len(said.comment) > LONGEST_COMMENT:
        what = f"must be at most {LONGEST_COMMENT} characters"
        raise Invalid(f"The comment {what}.", problems=(Problem("/comment", what),))
    for queue in await control.decide(said):
        await bell.ring(*queue)
