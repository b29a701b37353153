"""Which runs limits keep back, and when they may start: the same in memory and in PostgreSQL."""

from dataclasses import replace

import pytest
from tests.support.record import CREDENTIAL, INSTANCE, TEMPLATE, Harness, finish, seat, step

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import WorkReply, WorkRequest
from everesthood.domain.limits import CONCURRENCY_SECONDS, UNLIMITED, Limits, OrganizationLimits, Rate, Shared
from everesthood.domain.runs import Dedupe, RunRetry, RunState

pytestmark = pytest.mark.contract

TWO = Limits(concurrency=2)
SLOW = Limits(rate=Rate(runs=1, period_seconds=60, burst=2))


async def publish(record: Harness, uid: str = "uid-a", namespace: str = "acme", **changes: object) -> None:
    made = replace(INSTANCE, uid=uid, namespace=namespace, name=f"name-{uid}", **changes)  # type: ignore[arg-type]
    await record.registry.publish_instance(made)


async def accept(record: Harness, count: int, uid: str = "uid-a", namespace: str = "acme") -> list[str]:
    return [(await record.accept(instance_uid=uid, namespace=namespace)).run for _ in range(count)]


async def ask(record: Harness, want: int = 10, uid: str = "uid-a", *, settle: bool = False) -> WorkReply:
    return await record.work.work(seat(uid=uid), WorkRequest(want=want, settle_bell=settle))


async def test_no_more_runs_than_the_limit_at_once(record: Harness):
    """Two at once: the third starts as one of them is handed in, in the same call, with its first attempt."""
    await publish(record, limits=TWO)
    accepted = await accept(record, 4)

    first = await ask(record)
    none = await ask(record)
    done = WorkRequest(want=10, finished=(finish(first.assignments[0]),))
    then = await record.work.work(seat(), done)

    assert [held.run for held in first.assignments] == accepted[:2]
    assert (none.assignments, none.denied, none.next_due_in) == ((), "instance", CONCURRENCY_SECONDS)
    assert [(held.run, held.attempt) for held in then.assignments] == [(accepted[2], 1)]
    assert (await record.run(accepted[3])).attempt == 0


async def test_a_claim_within_the_limits_is_like_any_other(record: Harness):
    """A limit that keeps nothing back says nothing, and a resumed run comes with its steps."""
    await publish(record, limits=TWO)
    await accept(record, 1)
    (held,) = (await ask(record)).assignments
    await record.checkpoint(held, step("a", output={"n": 1}))
    await record.hand_in(finish(held, "released"))

    reply = await ask(record)

    (again,) = reply.assignments
    assert (again.fence, again.attempt, [s.name for s in again.steps]) == (2, 1, ["a"])
    assert (again.input, again.seconds_left, again.lease_seconds) == (
        held.input,
        pytest.approx(held.seconds_left, abs=1),
        held.lease_seconds,
    )
    assert (reply.denied, reply.next_due_in) == ("", None)


async def test_starts_are_spread_over_the_period(record: Harness):
    """One a minute, two at once: the reply says when the next may start, and then it starts."""
    await publish(record, limits=SLOW)
    await accept(record, 4)

    first = await ask(record)
    await record.age(50)
    early = await ask(record)
    await record.age(11)
    then = await ask(record)

    assert (len(first.assignments), first.denied) == (2, "instance")
    assert first.next_due_in == pytest.approx(60, abs=1)
    assert (early.assignments, early.next_due_in) == ((), pytest.approx(10, abs=1))
    assert (len(then.assignments), then.next_due_in) == (1, pytest.approx(59, abs=1))


async def test_of_template_and_instance_the_stricter_counts(record: Harness):
    """An instance cannot allow itself more than its template does."""
    await record.registry.publish_template(replace(TEMPLATE, limits=TWO))
    await publish(record, limits=Limits(concurrency=5))
    await publish(record, "uid-b", limits=Limits(concurrency=1))
    for uid in ("uid-a", "uid-b"):
        await accept(record, 6, uid)

    strict, loose = await ask(record, uid="uid-b"), await ask(record)

    assert (len(strict.assignments), strict.denied) == (1, "instance")
    assert (len(loose.assignments), loose.denied) == (1, "template")


async def test_instances_of_a_template_share_its_limits(record: Harness):
    """Runs of all instances of a template are counted together, and of no other template or organisation."""
    await record.registry.publish_template(replace(TEMPLATE, limits=Limits(concurrency=3)))
    await publish(record)
    await publish(record, "uid-b")
    await publish(record, "uid-c", template="farewell")
    await publish(record, "uid-d", "globex")
    for uid, namespace in (("uid-a", "acme"), ("uid-b", "acme"), ("uid-c", "acme"), ("uid-d", "globex")):
        await accept(record, 4, uid, namespace)

    replies = [
        await ask(record, n, uid) for n, uid in ((2, "uid-a"), (2, "uid-b"), (4, "uid-c"), (4, "uid-d"))
    ]

    assert [len(reply.assignments) for reply in replies] == [2, 1, 4, 4]
    assert [reply.denied for reply in replies] == ["", "template", "", ""]


async def test_a_templates_limits_follow_its_newest_content(record: Harness):
    """An older content changes nothing, a template of the same name takes over, and a removed one limits nothing."""
    await publish(record)
    await accept(record, 9)
    await record.registry.publish_template(replace(TEMPLATE, generation=2, limits=Limits(concurrency=1)))
    await record.registry.publish_template(replace(TEMPLATE, limits=UNLIMITED))
    first = await ask(record)
    heir = replace(TEMPLATE, uid="uid-u", limits=TWO)
    await record.registry.publish_template(heir)
    await record.registry.remove_template(TEMPLATE.uid)
    second = await ask(record)
    known = await record.registry.known_templates()
    await record.registry.remove_template(heir.uid)
    third = await ask(record)

    assert [len(reply.assignments) for reply in (first, second, third)] == [1, 1, 7]
    assert (known, await record.registry.known_templates()) == ({"uid-u"}, frozenset())


async def test_an_instance_that_goes_leaves_its_templates_limits(record: Harness):
    """The limit is the template's: the other instances keep it."""
    await record.registry.publish_template(replace(TEMPLATE, limits=TWO))
    await publish(record)
    await publish(record, "uid-b")
    await record.registry.remove_instance("uid-a")
    await accept(record, 4, "uid-b")

    assert len((await ask(record, uid="uid-b")).assignments) == 2


async def test_instances_that_bind_a_credential_share_its_limits(record: Harness):
    """A key's runs are counted over all instances that bind it, and no others."""
    await publish(record)
    await publish(record, "uid-b")
    await publish(record, "uid-c", bindings={})
    await record.registry.publish_credential(replace(CREDENTIAL, limits=Limits(concurrency=3)))
    for uid in ("uid-a", "uid-b", "uid-c"):
        await accept(record, 4, uid)

    replies = [await ask(record, 2), await ask(record, 2, "uid-b"), await ask(record, 4, "uid-c")]

    assert [len(reply.assignments) for reply in replies] == [2, 1, 4]
    assert [reply.denied for reply in replies] == ["", "credential", ""]


async def test_a_held_credential_starts_no_run_of_anybody_who_binds_it(record: Harness):
    """A hold is for all instances of the organisation that bind the key, is never shortened, and ends."""
    await publish(record)
    await publish(record, "uid-b")
    await publish(record, "uid-c", bindings={})
    await publish(record, "uid-d", "globex")
    for uid, namespace in (("uid-a", "acme"), ("uid-b", "acme"), ("uid-c", "acme"), ("uid-d", "globex")):
        await accept(record, 2, uid, namespace)

    await record.gateway.hold_credential("acme", "model-key", 30)
    await record.gateway.hold_credential("acme", "model-key", 5)
    held = [await ask(record, 1, uid) for uid in ("uid-a", "uid-b", "uid-c", "uid-d")]
    await record.age(31)
    after = await ask(record, 1)

    assert [(len(reply.assignments), reply.denied) for reply in held] == [
        (0, "credential"),
        (0, "credential"),
        (1, ""),
        (1, ""),
    ]
    assert held[0].next_due_in == pytest.approx(30, abs=1)
    assert [(one.attempt, one.fence) for one in after.assignments] == [(1, 1)]


async def test_a_hold_survives_a_change_of_the_credential(record: Harness):
    """Publishing a credential anew, with limits or without, does not end the wait that its provider asked for."""
    await publish(record)
    await accept(record, 1)
    await record.gateway.hold_credential("acme", "model-key", 30)
    for generation, limits in ((1, TWO), (2, Limits())):
        changed = replace(CREDENTIAL, generation=generation, limits=limits)
        await record.registry.publish_credential(changed)

    assert (await ask(record)).denied == "credential"


async def test_a_deleted_credential_takes_its_limits_along(record: Harness):
    """What is left of a credential limits nobody."""
    await publish(record)
    await accept(record, 3)
    await record.registry.publish_credential(replace(CREDENTIAL, limits=Limits(concurrency=1)))
    await record.registry.remove_credential(CREDENTIAL.uid)

    assert len((await ask(record)).assignments) == 3


async def test_an_organisation_is_limited_over_all_its_instances(record: Harness):
    """Each organisation has the same limit unless it is named, one that comes later too."""
    named = OrganizationLimits(concurrency=4)
    shared = Shared(organization=OrganizationLimits(concurrency=2), organizations={"globex": named})
    await publish(record)
    await record.gateway.publish_limits(shared)
    await publish(record, "uid-b")
    await publish(record, "uid-g", "globex")
    await publish(record, "uid-l", "later")
    for uid, namespace in (("uid-a", "acme"), ("uid-b", "acme"), ("uid-g", "globex"), ("uid-l", "later")):
        await accept(record, 5, uid, namespace)

    replies = {uid: await ask(record, 5, uid) for uid in ("uid-a", "uid-b", "uid-g", "uid-l")}

    assert {uid: len(reply.assignments) for uid, reply in replies.items()} == {
        "uid-a": 2,
        "uid-b": 0,
        "uid-g": 4,
        "uid-l": 2,
    }
    assert {reply.denied for reply in replies.values()} == {"organization"}


async def test_limits_of_the_installation_are_written_once_and_taken_back(record: Harness):
    """The same limits change nothing; limits that are gone limit nobody."""
    await publish(record)
    shared = Shared(platform=TWO, organization=OrganizationLimits(concurrency=9))

    changed = [sorted(await record.gateway.publish_limits(shared)) for _ in range(2)]
    await accept(record, 5)
    limited = await ask(record)
    await record.gateway.publish_limits(Shared())

    assert changed == [["organization", "organization/acme", "platform"], []]
    assert (len(limited.assignments), limited.denied) == (2, "platform")
    assert len((await ask(record)).assignments) == 3


async def test_places_of_the_platform_are_shared_by_weight(record: Harness):
    """Whoever has less than its share gets the next place, though another asks for it first and often."""
    heavy = OrganizationLimits(weight=3)
    await record.gateway.publish_limits(
        Shared(platform=Limits(concurrency=8), organizations={"globex": heavy})
    )
    await publish(record)
    await publish(record, "uid-g", "globex")
    await accept(record, 30)
    await accept(record, 30, "uid-g", "globex")
    flood = list((await ask(record, 20)).assignments)
    waits = await ask(record, 20, "uid-g")

    got = 0
    for _ in range(7):
        await record.hand_in(finish(flood.pop()))
        greedy = await ask(record, 20)
        flood += greedy.assignments
        got += len((await ask(record, 20, "uid-g")).assignments)

    assert (len(waits.assignments), waits.denied) == (0, "platform")
    assert (got, len(flood)) == (6, 2)


async def test_a_place_is_not_kept_for_who_asks_no_more(record: Harness):
    """A moment after an organisation last asked, the places that waited for it are free for all."""
    await record.gateway.publish_limits(Shared(platform=TWO))
    await publish(record)
    await publish(record, "uid-g", "globex")
    await accept(record, 5)
    await accept(record, 5, "uid-g", "globex")
    (held, _) = (await ask(record)).assignments
    await ask(record, uid="uid-g")
    await record.hand_in(finish(held))

    kept = await ask(record)
    await record.age(2)

    assert (kept.assignments, kept.denied) == ((), "platform")
    assert len((await ask(record)).assignments) == 1


async def test_runs_that_run_already_count_once_there_is_a_limit(record: Harness):
    """A limit that comes later waits until enough of what was started before it is over."""
    await publish(record)
    await accept(record, 5)
    held = (await ask(record, 3)).assignments

    await publish(record, limits=TWO)
    over = await ask(record)
    await record.hand_in(*(finish(one) for one in held[:2]))

    assert (over.assignments, over.denied) == ((), "instance")
    assert len((await ask(record)).assignments) == 1


async def test_a_limit_that_is_taken_back_keeps_nothing_back(record: Harness):
    """Without limits in its spec an instance starts what is due."""
    await publish(record, limits=TWO)
    await accept(record, 5)
    await ask(record)
    await publish(record)

    assert len((await ask(record)).assignments) == 3


async def test_people_are_told_what_keeps_a_run_back(record: Harness):
    """The sentence is about this moment: it goes as the limit has room."""
    await publish(record, limits=TWO)
    accepted = await accept(record, 3)
    before = await record.runs.kept_back(await record.run(accepted[2]))
    held = (await ask(record)).assignments
    full = await record.runs.kept_back(await record.run(accepted[2]))
    await record.hand_in(finish(held[0]))

    assert before is None
    assert full is not None
    assert (full.level, full.sentence) == ("instance", "the instance's limit of 2 runs at once is reached")
    assert await record.runs.kept_back(await record.run(accepted[2])) is None


async def test_a_run_may_be_handed_back_for_later(record: Harness):
    """A run that waits for a held key is due later, has burnt neither attempt nor failure, and says why."""
    await publish(record)
    (run,) = await accept(record, 1)
    (held,) = (await ask(record)).assignments
    broken = step("a", "failed")
    back = finish(
        held,
        "released",
        retry_after_seconds=40.0,
        reason=Reason.CREDENTIAL_HELD,
        message="It waits.",
        steps=(broken,),
    )
    await record.hand_in(back)

    found = await record.run(run)
    assert (found.state, found.attempt, found.failures) == (RunState.QUEUED, 0, 0)
    assert (found.reason, found.message) == (Reason.CREDENTIAL_HELD, "It waits.")
    assert (await ask(record)).assignments == ()
    await record.age(41)
    (again,) = (await ask(record)).assignments
    found = await record.run(run)
    assert (again.attempt, found.reason, found.message) == (1, None, "")


# --- when the next run is due -----------------------------------------------------------------


async def test_whoever_settles_the_bell_learns_when_the_next_run_is_due(record: Harness):
    """Of runs that are due later the first counts, whatever its priority."""
    await publish(record)
    await record.accept(dedupe=Dedupe(key="a", mode="debounce", seconds=50), priority=9)
    await record.accept(dedupe=Dedupe(key="b", mode="debounce", seconds=20))
    await record.accept(dedupe=Dedupe(key="c", mode="debounce", seconds=40), priority=3)

    assert (await ask(record)).next_due_in is None
    assert (await ask(record, settle=True)).next_due_in == pytest.approx(20, abs=1)
    assert (await ask(record, 0, settle=True)).next_due_in is None
    await record.age(15)
    assert (await ask(record, settle=True)).next_due_in == pytest.approx(5, abs=1)


async def test_a_retry_is_announced(record: Harness):
    """A run whose attempt failed is due again after its pause."""
    await publish(record)
    await record.accept(retry=RunRetry(max_attempts=3))
    (held,) = (await ask(record)).assignments
    await record.hand_in(finish(held, "failed", transient=True, retry_after_seconds=15.0))

    due = (await ask(record, settle=True)).next_due_in

    assert due is not None
    assert 14 <= due <= 26


async def test_nothing_within_a_minute_is_no_alarm(record: Harness):
    """What is due later is seen at a later look."""
    await publish(record)
    await record.accept(dedupe=Dedupe(key="a", mode="debounce", seconds=70))

    assert (await ask(record, settle=True)).next_due_in is None
    await record.age(11)
    assert (await ask(record, settle=True)).next_due_in == pytest.approx(59, abs=1)


async def test_an_alarm_is_only_for_who_may_claim(record: Harness):
    """A worker of an old revision is not woken for new runs, nor anybody of a suspended instance."""
    await publish(record)
    await record.accept(dedupe=Dedupe(key="a", mode="debounce", seconds=20))
    asks = WorkRequest(want=1, settle_bell=True)

    old = await record.work.work(seat("r0"), asks)
    await publish(record, generation=2, suspended=True)
    suspended = await record.work.work(seat(), asks)

    assert (old.next_due_in, suspended.next_due_in) == (None, None)


async def test_nobody_is_rung_for_what_is_held(record: Harness):
    """The repair of bells leaves queues alone whose credential is held, and rings once the hold is over."""
    await publish(record)
    await publish(record, "uid-c", bindings={})
    await accept(record, 1)
    await accept(record, 1, "uid-c")
    await record.gateway.hold_credential("acme", "model-key", 30)
    await record.age(5)

    held = {bell.instance_uid for bell in await record.clock.due_bells(2)}
    await record.age(26)

    assert held == {"uid-c"}
    assert {bell.instance_uid for bell in await record.clock.due_bells(2)} == {"uid-a", "uid-c"}
