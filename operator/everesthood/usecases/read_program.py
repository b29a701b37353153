"""Tell a worker what it executes: its revision's content with its instance's config and slots."""

from collections.abc import Mapping

import msgspec

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import Program
from everesthood.domain import credentials
from everesthood.domain.errors import Forbidden, NotFound
from everesthood.usecases.ports.record import GatewayStore, WorkerSeat
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedRevision


class Slot(msgspec.Struct):
    """The part of a template's credential slot that matters here."""

    name: str
    hosts: tuple[str, ...] = ()


class _Template(msgspec.Struct):
    credentials: tuple[Slot, ...] = ()


async def read_program(*, store: GatewayStore, seat: WorkerSeat, internal_hosts: frozenset[str]) -> Program:
    """Return the worker's program.

    Raises:
        Forbidden: the instance was deleted.
        NotFound: the revision is not published.
    """
    instance, revision = await published(store, seat)
    slots = await _slots(store, instance, slots_of(revision))
    return Program(
        instance_uid=instance.uid,
        namespace=instance.namespace,
        instance=instance.name,
        revision=seat.revision,
        template=msgspec.Raw(revision.spec),
        config=msgspec.Raw(instance.config),
        slots=slots,
        internal_hosts=tuple(sorted(internal_hosts)),
    )


async def published(store: GatewayStore, seat: WorkerSeat) -> tuple[PublishedInstance, PublishedRevision]:
    """Return the instance and the revision of a seat."""
    instance = await store.instance(seat.instance_uid)
    if instance is None:
        raise Forbidden("The AgentInstance was deleted.", Reason.NOT_YOURS)
    revision = await store.revision(seat.namespace, seat.revision)
    if revision is None:
        raise NotFound(f"Revision {seat.revision} is not published.", Reason.REVISION_NOT_FOUND)
    return instance, revision


def slots_of(revision: PublishedRevision) -> Mapping[str, Slot]:
    """Return the credential slots that a revision declares."""
    return {slot.name: slot for slot in msgspec.json.decode(revision.spec, type=_Template).credentials}


async def _slots(
    store: GatewayStore, instance: PublishedInstance, declared: Mapping[str, Slot]
) -> dict[str, list[str]]:
    bound = {slot: name for slot, name in instance.bindings.items() if slot in declared}
    known = await store.credentials(instance.namespace, set(bound.values())) if bound else {}
    return {slot: _hosts(declared[slot], known.get(name)) for slot, name in bound.items()}


def _hosts(slot: Slot, credential: PublishedCredential | None) -> list[str]:
    """Return where the slot's value may go; of a missing credential the lease says what is wrong."""
    if credential is None:
        return list(slot.hosts)
    return list(credentials.sendable_hosts(slot.hosts, credential.hosts)) or list(slot.hosts)
