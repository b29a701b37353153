"""Look at queues, pause one, resume it."""

from everesthood.apis.reasons import Reason
from everesthood.domain.errors import NotFound
from everesthood.domain.queues import QueueView
from everesthood.usecases.ports.bell import Bell
from everesthood.usecases.ports.control import Actor, ControlStore


async def show_queue(control: ControlStore, namespace: str, instance: str) -> QueueView:
    """Return the queue of an instance."""
    for found in await control.queues(namespace, instance):
        return found
    raise _no_instance(namespace, instance)


async def pause_queue(control: ControlStore, namespace: str, instance: str, actor: Actor) -> QueueView:
    """Hand out nothing any more, and return the queue as it is now."""
    if not await control.pause(namespace, instance, actor):
        raise _no_instance(namespace, instance)
    return await show_queue(control, namespace, instance)


async def resume_queue(
    control: ControlStore, bell: Bell, namespace: str, instance: str, actor: Actor
) -> QueueView:
    """Hand out again, wake the workers, and return the queue as it is now."""
    rings = await control.resume(namespace, instance, actor)
    if rings is None:
        raise _no_instance(namespace, instance)
    for queue in rings:
        await bell.ring(*queue)
    return await show_queue(control, namespace, instance)


def _no_instance(namespace: str, instance: str) -> NotFound:
    what = f"There is no AgentInstance {instance!r} in namespace {namespace!r}, or it is not published yet."
    return NotFound(what, Reason.INSTANCE_NOT_FOUND)
