"""Stop an organisation, all of its queues at once, and start it again."""

from everesthood.domain.errors import Invalid, Problem
from everesthood.domain.queues import LONGEST_MESSAGE, Stop
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import Actor, ControlStore


async def stop_organization(
    control: ControlStore, namespace: str, actor: Actor, *, message: str, cancels: bool
) -> Stop:
    """Accept nothing and start nothing any more; a second stop may still decide to cancel what runs."""
    if len(message) > LONGEST_MESSAGE:
        what = f"must be at most {LONGEST_MESSAGE} characters"
        raise Invalid(f"The message {what}.", problems=(Problem("/message", what),))
    return await control.stop(namespace, actor, message=message, cancels=cancels)


async def start_organization(control: ControlStore, bell: Bell, namespace: str, actor: Actor) -> None:
    """Lift the stop and wake the workers of what waits."""
    for queue in await control.start(namespace, actor):
        await bell.ring(*queue)
