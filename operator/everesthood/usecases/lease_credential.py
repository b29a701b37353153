"""Lend a worker the value of the credential that its instance binds to a slot."""

from typing import Literal, cast

from everesthood.apis.wire import CredentialLease
from everesthood.domain import credentials
from everesthood.usecases.ports.identity import Secrets
from everesthood.usecases.ports.record import AuditEntry, GatewayStore, WorkerSeat
from everesthood.usecases.ports.registry import PublishedCredential
from everesthood.usecases.read_program import published, slots_of


async def lease_credential(
    *, store: GatewayStore, secrets: Secrets, seat: WorkerSeat, slot: str, request_id: str
) -> CredentialLease:
    """Return the value with the hosts that it may be sent to; the lease is in the audit log first.

    Raises:
        NotFound: the slot is not bound, or the credential or its Secret is not there.
        Forbidden: the credential is not for this instance or slot, or the namespace is not enrolled.
        Unavailable: the record or Kubernetes cannot be asked.
    """
    credential, hosts = await credential_of(store, seat, slot)
    value = await secrets.value(seat.namespace, credential.secret_name, credential.secret_key)
    await store.audit(
        AuditEntry(
            namespace=seat.namespace,
            actor=f"worker/{seat.pod}",
            action="credential.lease",
            target=f"agentcredential/{credential.name}",
            request_id=request_id,
        )
    )
    return CredentialLease(
        type=cast('Literal["Bearer", "Header", "Basic"]', credential.type),
        value=credentials.usable(value),
        header=credential.header,
        hosts=hosts,
    )


async def credential_of(
    store: GatewayStore, seat: WorkerSeat, slot: str
) -> tuple[PublishedCredential, tuple[str, ...]]:
    """Return the credential that a slot is bound to and the hosts that it may be sent to."""
    instance, revision = await published(store, seat)
    declared = slots_of(revision).get(slot)
    name = instance.bindings.get(slot)
    if declared is None or name is None:
        raise credentials.not_bound(slot)
    credential = (await store.credentials(seat.namespace, [name])).get(name)
    if credential is None:
        raise credentials.not_found(name)
    hosts = credentials.sendable_hosts(declared.hosts, credential.hosts)
    refused = credentials.refusal(
        name=name, instance=instance.name, allowed_instances=credential.allowed_instances, hosts=hosts
    )
    if refused is not None:
        raise refused
    return credential, hosts
