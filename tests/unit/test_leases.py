"""What a worker may borrow: its program, its queue's password, a credential's value."""

from dataclasses import replace

import msgspec
import pytest

from everesthood.adapters.memory import MemoryClock, MemoryGateway, MemoryRegistry, Record
from everesthood.apis.reasons import Reason
from everesthood.domain.broker import broker_password
from everesthood.domain.errors import Forbidden, Invalid, NotFound, Unavailable
from everesthood.usecases.hold_credential import hold_credential
from everesthood.usecases.lease_credential import lease_credential
from everesthood.usecases.lease_queue import Broker, lease_queue
from everesthood.usecases.observe_credentials import observe_credentials
from everesthood.usecases.ports.record import WorkerSeat
from everesthood.usecases.ports.registry import PublishedCredential, PublishedInstance, PublishedRevision
from everesthood.usecases.read_program import read_program

SPEC = {
    "displayName": "Greeting",
    "credentials": [
        {"name": "model", "hosts": ["api.example.com", "eu.example.com"]},
        {"name": "crm", "hosts": ["crm.example.com"]},
    ],
    "steps": [],
}
INSTANCE = PublishedInstance(
    uid="uid-a",
    namespace="acme",
    name="greeter",
    generation=1,
    template="greeting",
    service_account="agent-greeter",
    current_revision="r1",
    config=b'{"tone": "dry"}',
    bindings={"model": "key", "ghost": "key"},
)
CREDENTIAL = PublishedCredential(
    uid="uid-c",
    namespace="acme",
    name="key",
    generation=1,
    type="Header",
    header="X-Key",
    secret_name="model",
    secret_key="token",
    hosts=("api.example.com",),
    allowed_instances=(),
)
SEAT = WorkerSeat(instance_uid="uid-a", namespace="acme", instance="greeter", revision="r1", pod="pod-1")
BROKER = Broker(host="redis", port=6379, tls=True, bell_key=b"b" * 32, ca="the authority")
KEY = b"f" * 32


class Vault:
    """Secrets of a namespace."""

    def __init__(self):
        self.values = {("acme", "model", "token"): "s3cret\n"}
        self.error = None

    async def value(self, namespace, name, key):
        if self.error:
            raise self.error
        try:
            return self.values[namespace, name, key]
        except KeyError:
            raise NotFound("no Secret", Reason.SECRET_NOT_FOUND) from None


class Case:
    def __init__(self):
        self.record, self.vault = Record(), Vault()
        self.store, self.registry = MemoryGateway(self.record), MemoryRegistry(self.record)

    async def lease(self, slot="model", seat=SEAT):
        return await lease_credential(
            store=self.store, secrets=self.vault, seat=seat, slot=slot, request_id="req-1"
        )

    async def observe(self):
        return await observe_credentials(store=self.store, secrets=self.vault, key=KEY, older_than_seconds=30)

    async def program(self, seat=SEAT):
        return await read_program(store=self.store, seat=seat, internal_hosts=frozenset({"m:80", "a:80"}))


@pytest.fixture
async def case():
    case = Case()
    await case.registry.publish_instance(INSTANCE)
    await case.registry.publish_revision(
        PublishedRevision(namespace="acme", digest="r1", template="greeting", spec=msgspec.json.encode(SPEC))
    )
    await case.registry.publish_credential(CREDENTIAL)
    return case


async def test_a_program_is_the_revision_with_the_instances_config(case):
    """The worker gets the content as published, the config, and its bound slots with their hosts."""
    program = await case.program()

    assert (program.instance_uid, program.instance, program.revision) == ("uid-a", "greeter", "r1")
    assert msgspec.json.decode(program.template) == SPEC
    assert bytes(program.config) == b'{"tone": "dry"}'
    assert program.slots == {"model": ["api.example.com"]}
    assert program.internal_hosts == ("a:80", "m:80")


async def test_a_slot_without_its_credential_is_still_a_slot(case):
    """The lease will say what is wrong with it."""
    await case.registry.remove_credential("uid-c")

    assert (await case.program()).slots == {"model": ["api.example.com", "eu.example.com"]}


async def test_there_is_no_program_of_what_is_not_published(case):
    """An unknown revision and a deleted instance are refused."""
    with pytest.raises(NotFound) as refused:
        await case.program(replace(SEAT, revision="r9"))
    assert refused.value.reason is Reason.REVISION_NOT_FOUND

    await case.registry.remove_instance("uid-a")
    with pytest.raises(Forbidden):
        await case.program()


async def test_a_queue_is_lent_once_its_user_exists(case):
    """Until the scheduler made the broker user, the worker waits; then it gets the derived password."""
    with pytest.raises(Unavailable) as refused:
        await lease_queue(store=case.store, broker=BROKER, seat=SEAT)
    await MemoryClock(case.record).mark_queues(["uid-a"], [])

    lease = await lease_queue(store=case.store, broker=BROKER, seat=SEAT)

    assert (refused.value.reason, refused.value.retry_after_seconds) == (Reason.QUEUE_PENDING, 1)
    assert (lease.host, lease.port, lease.tls, lease.ca) == ("redis", 6379, True, "the authority")
    assert (lease.user, lease.prefix, lease.queue) == ("agi-uid-a", "agi:uid-a:", "drain.r1")
    assert lease.password == broker_password(b"b" * 32, "uid-a")
    assert "bbbb" not in repr(BROKER)


async def test_a_credential_is_lent_with_its_hosts_and_leaves_a_line(case):
    """The value comes with where it may go; the audit log knows who took it."""
    lease = await case.lease()

    assert (lease.type, lease.header, lease.value, lease.hosts) == (
        "Header",
        "X-Key",
        "s3cret",
        ("api.example.com",),
    )
    (line,) = case.record.audit
    assert (line.actor, line.action, line.target, line.request_id) == (
        "worker/pod-1",
        "credential.lease",
        "agentcredential/key",
        "req-1",
    )
    assert "s3cret" not in repr(line)


@pytest.mark.parametrize(
    ("slot", "changes", "error", "reason"),
    [
        ("crm", {}, NotFound, Reason.CREDENTIAL_NOT_BOUND),
        ("nonsense", {}, NotFound, Reason.CREDENTIAL_NOT_BOUND),
        ("ghost", {}, NotFound, Reason.CREDENTIAL_NOT_BOUND),
        ("model", {"allowed_instances": ("other",)}, Forbidden, Reason.CREDENTIAL_NOT_ALLOWED),
        ("model", {"hosts": ("elsewhere.example.com",)}, Forbidden, Reason.CREDENTIAL_NOT_ALLOWED),
        ("model", {"secret_name": "gone"}, NotFound, Reason.SECRET_NOT_FOUND),
    ],
)
async def test_a_credential_is_lent_only_as_its_owner_allows(case, slot, changes, error, reason):
    """An unbound slot, another instance's credential, a host of neither list: refused by name."""
    await case.registry.publish_credential(replace(CREDENTIAL, generation=2, **changes))

    with pytest.raises(error) as refused:
        await case.lease(slot)

    assert refused.value.reason is reason
    assert case.record.audit == []


async def test_a_missing_credential_is_named(case):
    """The refusal names the AgentCredential that is not there."""
    await case.registry.remove_credential("uid-c")

    with pytest.raises(NotFound) as refused:
        await case.lease()

    assert refused.value.reason is Reason.CREDENTIAL_NOT_FOUND
    assert "'key'" in refused.value.message


async def test_no_value_is_lent_that_the_audit_log_does_not_know(case):
    """When the line cannot be written, the value is not given."""

    async def down(_entry):
        raise Unavailable("down")

    case.store.audit = down

    with pytest.raises(Unavailable):
        await case.lease()


async def test_a_look_tells_whether_a_value_is_there_and_changed(case):
    """Reason and fingerprint follow the Secret; the value itself is nowhere."""
    assert await case.observe() == {"CredentialVerified": 1}
    first = await case.registry.credential_state("uid-c")
    assert await case.observe() == {}  # looked at just now

    case.vault.values.clear()
    await case.registry.publish_credential(replace(CREDENTIAL, generation=2, secret_key="other"))
    assert await case.observe() == {"SecretNotFound": 1}
    second = await case.registry.credential_state("uid-c")

    assert (first.reason, len(first.fingerprint)) == ("CredentialVerified", 16)
    assert "s3cret" not in repr(first)
    assert (second.reason, second.fingerprint) == ("SecretNotFound", "")


async def test_what_cannot_be_looked_at_keeps_its_last_observation(case):
    """Kubernetes being away says nothing of a credential."""
    case.vault.error = Unavailable("away")

    assert await case.observe() == {"unavailable": 1}
    assert await case.registry.credential_state("uid-c") is None


async def test_a_namespace_that_is_not_enrolled_is_told_so(case):
    """The reason of the refusal is what the controller shows."""
    case.vault.error = Forbidden("no", Reason.NAMESPACE_NOT_ENROLLED)

    assert await case.observe() == {"NamespaceNotEnrolled": 1}


async def test_a_credential_is_held_for_all_who_bind_it(case):
    """The worker names its slot; the record holds the credential, for an hour at the most."""
    store = case.store
    held = await hold_credential(store=store, seat=SEAT, slot="model", seconds=7)
    long = await hold_credential(store=store, seat=SEAT, slot="model", seconds=1e9)

    until = case.record.limits["credential/acme/key"].held_until
    assert (held.seconds, long.seconds) == (7, 3600)
    assert 3590 < (until - case.record.now()).total_seconds() <= 3600


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
async def test_a_hold_is_for_a_length_of_time(case, seconds):
    """What is none is refused, and nothing is held."""
    with pytest.raises(Invalid, match="seconds"):
        await hold_credential(store=case.store, seat=SEAT, slot="model", seconds=seconds)
    assert case.record.limits == {}


async def test_nobody_holds_a_credential_that_is_not_theirs(case):
    """A slot that is not bound, and a credential that is for other instances, are refused as for a lease."""
    await case.registry.publish_credential(
        replace(CREDENTIAL, generation=2, allowed_instances=("somebody-else",))
    )
    for slot, error in (("crm", NotFound), ("model", Forbidden)):
        with pytest.raises(error):
            await hold_credential(store=case.store, seat=SEAT, slot=slot, seconds=5)
    assert case.record.limits == {}
