"""What the controller may rely on when it publishes, and the gateway when it reads."""

import asyncio
from dataclasses import replace

import pytest
from tests.support.record import CREDENTIAL, INSTANCE, LEASE_SECONDS, Harness, finish

from everesthood.apis.reasons import Reason
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.record import AuditEntry
from everesthood.usecases.ports.registry import CredentialObservation, PublishedRevision, QueueState

pytestmark = pytest.mark.contract
REVISION = PublishedRevision(namespace="acme", digest="r1", template="greeting", spec=b'{"steps":[]}')


async def test_what_is_published_is_found(published: Harness):
    """Instances, revisions and credentials come back as they were published."""
    await published.registry.publish_revision(REVISION)
    await published.registry.publish_credential(CREDENTIAL)

    assert await published.gateway.instance("uid-a") == INSTANCE
    assert await published.gateway.revision("acme", "r1") == REVISION
    assert await published.gateway.credentials("acme", ["model-key", "none"]) == {"model-key": CREDENTIAL}
    assert await published.registry.known_instances() == {"uid-a"}
    assert await published.registry.known_credentials() == {"uid-c"}


async def test_nothing_is_found_from_another_namespace(published: Harness):
    """A name is a name of its namespace."""
    await published.registry.publish_revision(REVISION)
    await published.registry.publish_credential(CREDENTIAL)

    assert await published.gateway.revision("other", "r1") is None
    assert await published.gateway.credentials("other", ["model-key"]) == {}
    assert await published.gateway.instance("unknown") is None


async def test_a_later_generation_replaces_an_earlier_never_the_other_way(published: Harness):
    """A controller that lags behind does not bring back what was."""
    newer = replace(INSTANCE, generation=3, config=b"{}", current_revision="r2")
    await published.registry.publish_instance(newer)
    await published.registry.publish_instance(replace(INSTANCE, generation=2))
    same_generation = replace(newer, current_revision="r3")
    await published.registry.publish_instance(same_generation)

    assert await published.gateway.instance("uid-a") == same_generation


async def test_publishing_keeps_the_queue(published: Harness):
    """A change of the instance does not make its broker user be made again."""
    await published.clock.mark_queues(["uid-a"], [])

    await published.registry.publish_instance(replace(INSTANCE, generation=2))

    assert (await published.registry.queue_state("uid-a")).ready
    assert await published.gateway.queue_ready("uid-a")


async def test_a_digest_is_never_rewritten(published: Harness):
    """A revision is what it was when it was first published."""
    await published.registry.publish_revision(REVISION)

    await published.registry.publish_revision(replace(REVISION, spec=b"{}"))

    assert await published.gateway.revision("acme", "r1") == REVISION


async def test_removing_an_instance_ends_its_runs(published: Harness):
    """What waits is cancelled, what runs is stopped through its worker, what is over stays."""
    done = (await published.accept()).run
    (held,) = await published.claim()
    await published.hand_in(finish(held))
    running = (await published.accept()).run
    (held,) = await published.claim()
    waiting = (await published.accept()).run

    await published.registry.remove_instance("uid-a")
    await published.registry.remove_instance("uid-a")
    states = [await published.run(run) for run in (done, running, waiting)]
    await published.age(LEASE_SECONDS + 1)
    await published.clock.rescue()

    last = await published.run(running)
    assert [run.state for run in states] == [RunState.SUCCEEDED, RunState.RUNNING, RunState.CANCELLED]
    assert (states[1].cancel_requested, states[2].reason) == (True, Reason.INSTANCE_DELETED)
    assert (last.state, last.reason) == (RunState.CANCELLED, Reason.INSTANCE_DELETED)
    assert await published.registry.known_instances() == frozenset()
    assert await published.gateway.instance("uid-a") is None
    assert not await published.gateway.queue_ready("uid-a")


async def test_an_instance_of_the_same_name_takes_the_place_of_the_old(published: Harness):
    """Deleted and made again while nobody looked: the old one's runs end, the new one starts afresh."""
    accepted = await published.accept()

    await published.registry.publish_instance(replace(INSTANCE, uid="uid-z"))

    target = await published.runs.target("acme", "greeter")
    assert target is not None
    assert target.uid == "uid-z"
    assert (await published.run(accepted.run)).reason is Reason.INSTANCE_DELETED


async def test_a_deleted_instance_does_not_come_back(published: Harness):
    """Publishing a deleted instance again revives nothing."""
    await published.registry.remove_instance("uid-a")

    await published.registry.publish_instance(replace(INSTANCE, generation=9))

    assert await published.gateway.instance("uid-a") is None


async def test_no_run_slips_through_a_removal(published: Harness):
    """However accepts and the removal interleave, no run waits for ever."""
    accepts = [asyncio.ensure_future(published.accept()) for _ in range(40)]
    removal = asyncio.ensure_future(published.registry.remove_instance("uid-a"))
    accepts += [asyncio.ensure_future(published.accept()) for _ in range(40)]

    answers = await asyncio.gather(*accepts, return_exceptions=True)
    await removal

    runs = [await published.run(a.run) for a in answers if not isinstance(a, BaseException)]
    assert {run.state for run in runs} <= {RunState.CANCELLED}


async def test_the_queue_state_names_revisions_with_open_runs(published: Harness):
    """The controller keeps workers of a revision while a run of it is not over."""
    before = await published.registry.queue_state("uid-a")
    await published.accept()
    await published.accept()
    (held,) = await published.claim(1)
    during = await published.registry.queue_state("uid-a")
    await published.hand_in(finish(held))

    assert before == QueueState(ready=False, open_revisions=frozenset())
    assert during.open_revisions == {"r1"}
    assert (await published.registry.queue_state("uid-a")).open_revisions == frozenset()
    assert await published.registry.queue_state("unknown") == before


async def test_a_credential_is_unseen_until_the_gateway_looked(record: Harness):
    """The controller can tell not yet from not there."""
    await record.registry.publish_credential(CREDENTIAL)
    due = await record.observations.credentials_due(30)
    unseen = await record.registry.credential_state("uid-c")

    await record.observations.observe("uid-c", "CredentialVerified", "f" * 16)

    seen = await record.registry.credential_state("uid-c")
    assert (list(due), unseen) == ([CREDENTIAL], None)
    assert seen is not None
    assert (seen.reason, seen.fingerprint, seen.changed_at is None) == (
        "CredentialVerified",
        "f" * 16,
        False,
    )
    assert list(await record.observations.credentials_due(30)) == []
    await record.age(31)
    assert list(await record.observations.credentials_due(30)) == [CREDENTIAL]


async def test_the_time_of_change_moves_with_the_value_only(record: Harness):
    """Looking again changes nothing; losing sight of a value is no change of it."""
    await record.registry.publish_credential(CREDENTIAL)
    seen: list[CredentialObservation | None] = []
    for reason, mark in [
        ("CredentialVerified", "a"),
        ("CredentialVerified", "a"),
        ("SecretNotFound", ""),
        ("CredentialVerified", "b"),
    ]:
        await record.observations.observe("uid-c", reason, mark)
        seen.append(await record.registry.credential_state("uid-c"))

    first, again, lost, changed = (s for s in seen if s is not None)
    assert again == first
    assert lost == replace(first, reason="SecretNotFound")
    assert changed.fingerprint == "b"
    assert changed.changed_at is not None
    assert first.changed_at is not None
    assert changed.changed_at > first.changed_at


async def test_a_credential_that_points_elsewhere_is_looked_at_anew(record: Harness):
    """What was seen of one Secret says nothing of another; other changes keep the observation."""
    await record.registry.publish_credential(CREDENTIAL)
    await record.observations.observe("uid-c", "CredentialVerified", "a")
    await record.registry.publish_credential(
        replace(CREDENTIAL, generation=2, hosts=("a.example.com",), allowed_instances=("x",))
    )
    kept = await record.registry.credential_state("uid-c")

    moved = replace(CREDENTIAL, generation=3, secret_key="other")
    await record.registry.publish_credential(moved)

    assert kept is not None
    assert await record.registry.credential_state("uid-c") is None
    assert list(await record.observations.credentials_due(30)) == [moved]


async def test_a_credential_of_the_same_name_replaces_the_old(record: Harness):
    """Deleted and made again while nobody looked: the name means the new one."""
    await record.registry.publish_credential(CREDENTIAL)

    await record.registry.publish_credential(replace(CREDENTIAL, uid="uid-d"))

    assert await record.registry.known_credentials() == {"uid-d"}


async def test_a_removed_credential_is_gone(record: Harness):
    """Nothing is left of it, and looking at it changes nothing."""
    await record.registry.publish_credential(CREDENTIAL)
    await record.registry.remove_credential("uid-c")
    await record.registry.remove_credential("uid-c")
    await record.observations.observe("uid-c", "CredentialVerified", "a")

    assert await record.registry.credential_state("uid-c") is None
    assert await record.registry.known_credentials() == frozenset()


async def test_the_controller_hears_of_changes(published: Harness):
    """A broker user that is ready and a credential that was seen wake the controller."""
    await published.registry.publish_credential(CREDENTIAL)
    changes = published.registry.changes()
    told = asyncio.ensure_future(_until(changes, {"uid-a", "uid-c"}))
    await asyncio.sleep(0)

    await published.clock.mark_queues(["uid-a"], [])
    await published.observations.observe("uid-c", "CredentialVerified", "a")

    async with asyncio.timeout(5):
        await told
    await changes.aclose()


async def _until(changes, wanted: set[str]) -> None:
    async for uid in changes:
        wanted.discard(uid)
        if not wanted or uid == "*":
            return


async def test_the_audit_log_keeps_what_the_gateway_tells(record: Harness):
    """A lease of a credential leaves a line."""
    entry = AuditEntry(
        namespace="acme", actor="worker/p", action="credential.lease", target="agentcredential/c"
    )

    await record.gateway.audit(entry)

    assert await record.audited() == [("worker/p", "credential.lease", "agentcredential/c")]
