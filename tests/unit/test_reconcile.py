"""Reconciling, on twins of cluster and record: what is called, and that a second pass calls nothing."""

import json
from dataclasses import replace

import pytest
from tests.support.record import wish
from tests.support.twins import TickingClock, TwinCluster

from everesthood.adapters.languages import Languages
from everesthood.adapters.memory.control import MemoryControl
from everesthood.adapters.memory.gateway import MemoryGateway
from everesthood.adapters.memory.record import Record, RunRow
from everesthood.adapters.memory.registry import MemoryRegistry
from everesthood.apis import names
from everesthood.apis.reasons import ConditionType, Reason
from everesthood.domain import conditions
from everesthood.domain.errors import Unavailable
from everesthood.domain.limits import Limits, Rate
from everesthood.domain.observed import Key, Kind, Live
from everesthood.domain.runs import RunState
from everesthood.domain.workers import Site
from everesthood.usecases import parse
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.control import Actor
from everesthood.usecases.ports.record import WorkerSeat
from everesthood.usecases.ports.registry import (
    CredentialObservation,
    PublishedCredential,
    PublishedInstance,
    PublishedTemplate,
)
from everesthood.usecases.publish import Publisher
from everesthood.usecases.reconcile_credential import CredentialTools, reconcile_credential
from everesthood.usecases.reconcile_instance import InstanceTools, reconcile_instance
from everesthood.usecases.reconcile_template import TemplateTools, reconcile_template
from everesthood.usecases.remove_ghosts import remove_ghosts
from everesthood.usecases.scale_workers import ScaleWorkers
from everesthood.usecases.watch_demand import DemandWatch

SITE = Site(
    namespace="everesthood-system", gateway_url="http://g:8080", gateway_port=8080, redis_port=6379,
    image="everesthood:1", grace_seconds=30,
)  # fmt: skip
AGENT = {"displayName": "G", "steps": [{"name": "a", "transform": {"value": "1"}}]}
INSTANCE = Key(Kind.INSTANCE, "acme", "hello")
TEMPLATE = Key(Kind.TEMPLATE, "acme", "greeter")
CREDENTIAL = Key(Kind.CREDENTIAL, "acme", "mine")
SLOT = {"name": "key", "hosts": ["api.example.com"]}
BOUND = [{"slot": "key", "credentialRef": {"name": "mine"}}]
SECRET = {"source": {"secretRef": {"name": "s", "key": "k"}}, "hosts": ["api.example.com"]}


class World:
    """A namespace with everything that works on it."""

    def __init__(self) -> None:
        self.cluster = TwinCluster()
        self.record = Record()
        self.clock = TickingClock()
        self.publisher = Publisher(MemoryRegistry(self.record))
        view, languages, hosts = self.cluster.cache, Languages(), frozenset()
        shared = {"view": view, "cluster": self.cluster, "publisher": self.publisher, "now": self.clock}
        self.seconds = 0.0
        watch = DemandWatch(MemoryRegistry(self.record), lambda: self.seconds)
        scale = ScaleWorkers(cluster=self.cluster, watch=watch, grace_seconds=SITE.grace_seconds)
        self.instances = InstanceTools(
            **shared, languages=languages, internal_hosts=hosts, site=SITE, scale=scale
        )
        self.templates = TemplateTools(**shared, languages=languages, internal_hosts=hosts)
        self.credentials = CredentialTools(**shared, internal_hosts=hosts)

    def template(self, **changes) -> Live:
        return self.cluster.put(Kind.TEMPLATE, "greeter", spec={**AGENT, **changes})

    def instance(self, **spec) -> Live:
        body = {"templateRef": {"name": "greeter"}, **spec}
        return self.cluster.put(Kind.INSTANCE, "hello", spec=body)

    def credential(self, **spec) -> Live:
        return self.cluster.put(Kind.CREDENTIAL, "mine", spec={**SECRET, **spec})

    async def pass_over(self, key: Key = INSTANCE) -> float | None:
        match key.kind:
            case Kind.INSTANCE:
                return await reconcile_instance(key, self.instances)
            case Kind.TEMPLATE:
                return await reconcile_template(key, self.templates)
        return await reconcile_credential(key, self.credentials)

    async def settle(self) -> None:
        """Bring everything to Ready."""
        await self.pass_over(TEMPLATE)
        await self.begin()
        await self.pass_over()
        self.queue_is_made()
        self.workers_are_up()
        await self.pass_over()
        await self.pass_over(TEMPLATE)
        self.cluster.took()
        self.cluster.told.clear()

    async def begin(self) -> float | None:
        """Let the first children be made, and go on at once as the queue does."""
        again = await self.pass_over()
        return await self.pass_over() if again == 0.0 else again

    def queue_is_made(self) -> None:
        for uid, row in self.record.instances.items():
            row.queue_ready = True
            self.publisher.hint(uid)

    def workers_are_up(self, revision: str = "") -> None:
        for live in self.children(Kind.DEPLOYMENT):
            if live.revision.startswith(revision):
                count = json.loads(live.content)["spec"]["replicas"]
                numbers = {"replicas": count, "updatedReplicas": count, "availableReplicas": count}
                self.cluster.deploy(live.key.name, **numbers)

    def children(self, kind: Kind | None = None) -> list[Live]:
        live = self.cluster.cache.get(INSTANCE)
        owned = self.cluster.cache.owned_by(live.uid if live else "")
        return [c for c in owned if kind in (None, c.key.kind)]

    def status(self):
        return parse.instance_status(self.cluster.cache.get(INSTANCE))

    def says(self, kind: ConditionType) -> tuple[str, str, str] | None:
        return self.told_of(self.status(), kind)

    def template_says(self, kind: ConditionType) -> tuple[str, str, str] | None:
        return self.told_of(parse.template_status(self.cluster.cache.get(TEMPLATE)), kind)

    def credential_says(self, kind: ConditionType) -> tuple[str, str, str] | None:
        return self.told_of(parse.credential_status(self.cluster.cache.get(CREDENTIAL)), kind)

    def told_of(self, status, kind: ConditionType) -> tuple[str, str, str] | None:
        found = conditions.find(status.conditions, kind)
        return (found.status, found.reason, found.message) if found else None


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_pass_makes_everything(world: World):
    """The children first and in order; then a finalizer before the record knows, and one status."""
    world.template()
    world.instance(workers={"replicas": 2})
    await world.pass_over(TEMPLATE)
    world.cluster.took()

    assert await world.pass_over() == 0.0
    assert [(verb, key.kind) for verb, key in world.cluster.took() if verb != "look"] == [
        ("apply", Kind.SERVICE_ACCOUNT),
        ("apply", Kind.NETWORK_POLICY),
        ("apply", Kind.DEPLOYMENT),
        ("apply", Kind.DISRUPTION_BUDGET),
    ]
    assert world.record.instances == {}
    assert await world.pass_over() == 2.0
    assert world.cluster.took() == [("hold", INSTANCE), ("status", INSTANCE)]
    assert world.record.instances["uid-hello"].published.current_revision is None


async def test_a_second_pass_calls_nothing(world: World):
    """At rest a pass makes no call and tells nothing; ready means that every condition is True."""
    world.template()
    world.instance(workers={"replicas": 2})
    await world.settle()

    assert world.says(ConditionType.READY) == ("True", "Ready", "New runs are executed.")
    assert world.status().revision.current == world.status().revision.last_good
    for key in (INSTANCE, TEMPLATE):
        assert await world.pass_over(key) is None
    assert world.cluster.took() == []
    assert world.cluster.told == []


async def test_a_restart_calls_nothing(world: World):
    """A new process without memories finds everything in order and leaves it so."""
    world.template()
    world.instance()
    await world.settle()
    heir = World()
    heir.cluster, heir.record = world.cluster, world.record
    heir.instances = replace(
        world.instances,
        publisher=Publisher(MemoryRegistry(world.record)),
        settled=type(world.instances.settled)(),
    )

    assert await heir.pass_over() is None
    assert world.cluster.took() == []


async def test_an_instance_whose_children_are_all_refused_says_so(world: World):
    """When not one child can be made there is no second turn to wait for: the status tells why."""
    for kind in (Kind.SERVICE_ACCOUNT, Kind.NETWORK_POLICY, Kind.DEPLOYMENT):
        world.cluster.refuse[kind] = ApiError("exceeded quota", status=403)
    world.template()
    world.instance()
    await world.pass_over(TEMPLATE)

    assert await world.pass_over() == 2.0
    assert world.says(ConditionType.WORKERS_AVAILABLE)[1] == "ApplyRefused"
    assert "and 2 more" in world.says(ConditionType.WORKERS_AVAILABLE)[2]


async def test_one_worker_needs_no_disruption_budget(world: World):
    """The budget comes and goes with the second worker."""
    world.template()
    world.instance(workers={"replicas": 2})
    await world.settle()
    world.instance(workers={"replicas": 1})
    await world.pass_over()

    assert world.children(Kind.DISRUPTION_BUDGET) == []


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [
        ({"workers": {"replicas": -1}}, "InvalidSpec", "spec.workers.replicas"),
        ({"nonsense": 1}, "InvalidSpec", "spec.nonsense"),
        ({"schedules": [{"name": "s", "cron": "0 24 * * *"}]}, "InvalidSpec", "spec.schedules[0].cron"),
        ({"plan": "gold"}, "InvalidSpec", "spec.plan"),
    ],
)
async def test_a_bad_instance_is_refused_and_left_alone(world: World, spec, reason, words):
    """What breaks a rule gets no children, and the condition names the field."""
    world.template()
    world.instance(**spec)
    await world.pass_over(TEMPLATE)
    world.cluster.took()
    again = await world.pass_over()

    assert again is None
    assert [verb for verb, _ in world.cluster.took()] == ["status"]
    status, why, message = world.says(ConditionType.ACCEPTED)
    assert (status, why) == ("False", reason)
    assert words in message
    assert world.says(ConditionType.STALLED)[1] == reason
    assert world.says(ConditionType.READY)[0] == "False"
    await world.pass_over()
    assert world.cluster.took() == []


async def test_what_is_invalid_by_edit_keeps_running(world: World):
    """A config that breaks the schema changes nothing that runs, until it is mended."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    world.template(configSchema=schema)
    world.instance(config={"a": "x"})
    await world.settle()
    before = world.children()
    world.instance(config={"a": 3})
    await world.pass_over()

    assert world.says(ConditionType.ACCEPTED)[1] == "ConfigInvalid"
    assert "keeps running" in world.says(ConditionType.STALLED)[2]
    assert world.children() == before
    assert json.loads(world.record.instances["uid-hello"].published.config) == {"a": "x"}


async def test_config_that_only_a_new_revision_refuses_keeps_the_old_one(world: World):
    """A template that tightens its schema does not stop instances; suspending them still works."""
    world.template()
    world.instance(config={"a": 3})
    await world.settle()
    good = world.status().revision.current
    world.template(configSchema={"type": "object", "properties": {"a": {"type": "string"}}})
    await world.pass_over(TEMPLATE)
    world.instance(config={"a": 3}, suspend=True)
    await world.pass_over()

    assert world.says(ConditionType.ACCEPTED)[1] == "ConfigInvalid"
    assert world.status().revision.current == good
    assert world.status().revision.desired != good
    assert world.record.instances["uid-hello"].published.suspended


async def test_schedules_are_published_with_the_instance(world: World):
    """The record learns of them, of their changes, and that they are gone."""
    world.template()
    world.instance(schedules=[{"name": "daily", "cron": "0 6 * * *", "timeZone": "Europe/Berlin"}])
    await world.settle()
    (row,) = world.record.schedules.values()
    before = row.planned
    world.instance(
        schedules=[{"name": "daily", "cron": "0 6 * * *", "timeZone": "Europe/Berlin", "suspend": True}]
    )
    await world.pass_over()
    (changed,) = world.record.schedules.values()
    world.instance()
    await world.pass_over()

    assert (row.schedule.name, row.schedule.time_zone) == ("daily", "Europe/Berlin")
    assert (changed.planned, changed.active, changed.schedule.suspended) == (before, False, True)
    assert world.record.schedules == {}


async def test_suspending_is_told_and_published(world: World):
    """A suspended instance says so, keeps its workers and stays ready."""
    world.template()
    world.instance()
    await world.settle()
    world.instance(suspend=True)
    await world.pass_over()

    assert world.says(ConditionType.SUSPENDED)[0] == "True"
    assert world.says(ConditionType.READY)[0] == "True"
    assert "suspended" in world.says(ConditionType.READY)[2]
    assert world.record.instances["uid-hello"].published.suspended


async def test_what_people_hold_a_queue_with_is_told(world: World):
    """A pause and a stop are two conditions, neither of them Suspended; they go when they are lifted."""
    world.template()
    world.instance()
    await world.settle()
    world.record.instances["uid-hello"].queue_ready = True
    control = MemoryControl(world.record)
    ada = Actor(name="ada")
    conditions = (ConditionType.PAUSED, ConditionType.STOPPED)

    async def seen() -> list[str]:
        world.publisher.hint("uid-hello")
        await world.pass_over()
        there = {one.type: one for one in world.status().conditions}
        assert ConditionType.SUSPENDED not in there
        return [there[kind].message if kind in there else "" for kind in conditions]

    before = await seen()
    await control.pause("acme", "hello", ada)
    paused = await seen()
    await control.stop("acme", ada, message="a leak", cancels=True)
    both = await seen()
    await control.resume("acme", "hello", ada)
    await control.start("acme", ada)

    assert (before, await seen()) == (["", ""], ["", ""])
    assert paused[0].startswith("Paused by ada since ")
    assert (paused[1], both[0]) == ("", paused[0])
    assert both[1].startswith("The organisation was stopped by ada at ")
    assert both[1].endswith("a leak.")
    assert world.says(ConditionType.READY)[0] == "True"


async def test_a_missing_template_is_waited_for(world: World):
    """Without its template an instance has no children; with it, it goes on."""
    world.instance()
    assert await world.pass_over() is None
    assert world.says(ConditionType.READY)[1] == "TemplateNotFound"
    world.template()
    await world.pass_over()
    assert world.says(ConditionType.TEMPLATE_RESOLVED)[:2] == ("Unknown", "Reconciling")
    await world.settle()

    assert world.says(ConditionType.READY)[0] == "True"


async def test_a_deleted_template_leaves_workers_alone(world: World):
    """Workers go on when template and revisions are gone; a template on its way out counts as gone."""
    world.template()
    world.instance()
    await world.settle()
    before = world.children()
    template = world.cluster.cache.get(TEMPLATE)
    world.cluster.keep(replace(template, deleting=True))
    await world.pass_over()

    assert world.says(ConditionType.TEMPLATE_RESOLVED)[1] == "TemplateNotFound"
    assert world.children() == before


async def test_a_rollout_goes_from_the_old_to_the_new(world: World):
    """Old workers serve until the new are up, then stay until no run and no claim needs them."""
    world.template()
    world.instance()
    await world.settle()
    old = world.status().revision.current
    world.template(description="New.")
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    new = world.status().revision.desired

    assert {d.revision for d in world.children(Kind.DEPLOYMENT)} == {old, new}
    assert world.status().revision.current == old
    assert world.says(ConditionType.RECONCILING)[0] == "True"
    assert world.says(ConditionType.READY)[0] == "True"

    world.workers_are_up(new)
    assert await world.pass_over() == 5.0
    assert world.status().revision.current == new
    assert world.record.instances["uid-hello"].published.current_revision == new
    assert [n.reason for n in world.cluster.told] == [Reason.ROLLED_OUT]

    world.clock.forward(29)
    await world.pass_over()
    assert len(world.children(Kind.DEPLOYMENT)) == 2
    world.clock.forward(2)
    assert await world.pass_over() is None
    assert [d.revision for d in world.children(Kind.DEPLOYMENT)] == [new]
    assert [n.reason for n in world.cluster.told] == [Reason.ROLLED_OUT, Reason.DRAINED]


async def test_workers_with_open_runs_are_kept_and_made_again(world: World, monkeypatch):
    """A revision that still holds runs keeps its workers, also when somebody deletes them."""
    world.template()
    world.instance()
    await world.settle()
    old = world.status().revision.current
    monkeypatch.setattr(MemoryRegistry, "_open", lambda *_: frozenset({old}))
    world.template(description="New.")
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    world.workers_are_up()
    await world.pass_over()
    world.clock.forward(600)
    await world.pass_over()

    assert len(world.children(Kind.DEPLOYMENT)) == 2

    world.cluster.cache.drop(next(d for d in world.children(Kind.DEPLOYMENT) if d.revision == old))
    world.publisher.hint("uid-hello")
    await world.pass_over()

    assert {d.revision for d in world.children(Kind.DEPLOYMENT)} > {old}


async def test_a_rollout_that_fails_leaves_the_last_good_one(world: World):
    """New workers that give up stall the rollout, quote the Deployment, and the old revision serves."""
    world.template()
    world.instance()
    await world.settle()
    good = world.status().revision.current
    world.template(worker={"image": "bad"})
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    bad = next(d for d in world.children(Kind.DEPLOYMENT) if d.revision != good)
    gave_up = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "message": "no pods",
    }
    failure = {"type": "ReplicaFailure", "status": "False"}
    world.cluster.deploy(bad.key.name, conditions=[failure, gave_up])
    await world.pass_over()

    told = f"Revision {bad.revision} did not become available; revision {good} keeps running."
    assert world.says(ConditionType.STALLED) == ("True", "RolloutFailed", f"{told} Deployment: no pods")
    assert world.says(ConditionType.READY)[0] == "True"
    assert world.status().revision.last_good == good
    assert [n.reason for n in world.cluster.told] == [Reason.ROLLOUT_FAILED]


async def test_a_first_rollout_that_fails_says_so(world: World):
    """Without a last good revision there is nothing that keeps running, and Ready is False."""
    world.template()
    world.instance()
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    gave_up = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "message": "no",
    }
    world.cluster.deploy(world.children(Kind.DEPLOYMENT)[0].key.name, conditions=[gave_up])
    await world.pass_over()

    assert "keeps running" not in world.says(ConditionType.STALLED)[2]
    world.queue_is_made()
    await world.pass_over()
    assert world.says(ConditionType.READY)[1] == "WorkersUnavailable"


async def test_an_invalid_template_leaves_the_last_good_one(world: World):
    """A template that breaks a rule is refused with the path; instances say so and keep running."""
    world.template()
    world.instance()
    await world.settle()
    good = world.status().revision.current
    world.template(steps=[{"name": "a", "transform": {"value": "steps.nobody"}}])
    await world.pass_over(TEMPLATE)
    await world.pass_over()

    assert world.template_says(ConditionType.READY)[:2] == ("False", "InvalidSpec")
    assert "spec.steps[0]" in world.template_says(ConditionType.ACCEPTED)[2]
    assert world.says(ConditionType.READY)[1] == "TemplateInvalid"
    assert f"Revision {good} keeps running." in world.says(ConditionType.STALLED)[2]
    assert [d.revision for d in world.children(Kind.DEPLOYMENT)] == [good]
    world.cluster.took()
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    assert world.cluster.took() == []


async def test_a_pin_holds(world: World):
    """updatePolicy Manual stays on its revision, does not mind a bad template, and names a missing one."""
    world.template()
    world.instance()
    await world.settle()
    old = world.status().revision.current
    world.template(description="New.")
    await world.pass_over(TEMPLATE)
    world.instance(updatePolicy="Manual", revision=old[:12])
    await world.pass_over()
    assert world.status().revision.desired == old
    world.template(steps=[])
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    assert world.says(ConditionType.TEMPLATE_RESOLVED)[0] == "True"
    world.instance(updatePolicy="Manual", revision="f" * 16)
    await world.pass_over()

    assert world.says(ConditionType.TEMPLATE_RESOLVED)[1] == "RevisionNotFound"
    assert [d.revision for d in world.children(Kind.DEPLOYMENT)] == [old]


@pytest.mark.parametrize("kind", [Kind.SERVICE_ACCOUNT, Kind.DEPLOYMENT])
async def test_a_foreign_object_is_not_adopted(world: World, kind):
    """A name that somebody else uses is reported, and the other children are made all the same."""
    world.template()
    world.instance()
    await world.pass_over(TEMPLATE)
    revision = parse.template_status(world.cluster.cache.get(TEMPLATE)).revision
    name = f"agent-hello-{revision[:10]}" if kind is Kind.DEPLOYMENT else "agent-hello"
    theirs = Live(key=Key(kind, "acme", name), uid="theirs", resource_version=1)
    if kind is Kind.DEPLOYMENT:  # the watch shows our own only: the API server refuses
        world.cluster.foreign[theirs.key] = theirs
    else:
        world.cluster.cache.put(theirs)
    again = await world.begin()

    assert again == 2.0
    assert world.says(ConditionType.WORKERS_AVAILABLE)[:2] == ("False", "Conflict")
    assert len(world.children()) == 2
    world.queue_is_made()
    assert await world.pass_over() == 60.0


async def test_a_child_of_a_predecessor_is_waited_for(world: World):
    """An instance that comes back at once waits until the old children are collected."""
    world.template()
    world.instance()
    await world.settle()
    before = world.cluster.cache.get(INSTANCE)
    world.cluster.cache.drop(before)
    world.cluster.put(Kind.INSTANCE, "hello", spec={"templateRef": {"name": "greeter"}}, uid="second")

    assert await world.pass_over() == 1.0
    for child in world.cluster.cache.owned_by(before.uid):
        world.cluster.cache.drop(child)
    await world.pass_over()
    assert {c.owner for c in world.children()} == {"second"}
    assert world.record.instances["uid-hello"].deleted


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ApiError("exceeded quota", status=403), True),
        (ApiError("nope", status=422), True),
        (ApiError("uid mismatch", status=409), False),
        (ApiError("gone", status=404), False),
        (ApiError("ending", status=403, causes=("x: NamespaceTerminating",)), False),
        (Unavailable("down"), False),
    ],
)
async def test_a_refused_child_is_told(world: World, error, told):
    """What a quota or policy refuses is quoted; what passes by itself is left to the queue."""
    world.cluster.refuse[Kind.DEPLOYMENT] = error
    world.template()
    world.instance()
    await world.pass_over(TEMPLATE)
    if not told:
        with pytest.raises(type(error)):
            await world.pass_over()
        return
    await world.begin()

    status, reason, message = world.says(ConditionType.WORKERS_AVAILABLE)
    assert (status, reason) == ("False", "ApplyRefused")
    assert message.endswith(error.message)


async def test_an_unreachable_record_stops_no_children(world: World):
    """Children are made without the record; QueueReady says what is unknown."""
    world.template()
    await world.pass_over(TEMPLATE)
    world.instance()
    world.record.down = True
    again = await world.begin()

    assert again == 2.0
    assert world.says(ConditionType.QUEUE_READY)[:2] == ("Unknown", "RecordUnavailable")
    assert world.children(Kind.DEPLOYMENT)
    world.clock.forward(100)
    assert await world.pass_over() == 20.0
    world.clock.forward(1000)
    assert await world.pass_over() == 30.0


async def test_deletion_cleans_up_and_lets_go(world: World):
    """The record learns first, then the finalizer goes; without our finalizer nothing is done."""
    world.template()
    world.instance()
    await world.settle()
    live = world.cluster.keep(replace(world.cluster.cache.get(INSTANCE), deleting=True))
    await world.pass_over()

    assert world.cluster.took() == [("release", INSTANCE)]
    assert world.record.instances["uid-hello"].deleted
    world.cluster.keep(replace(live, finalizers=()))
    assert await world.pass_over() is None
    assert world.cluster.took() == []


async def test_deletion_waits_for_the_record_unless_told_otherwise(world: World):
    """Nothing is left behind in silence: a person decides to skip the cleanup."""
    world.template()
    world.instance()
    await world.settle()
    world.record.down = True
    live = world.cluster.keep(replace(world.cluster.cache.get(INSTANCE), deleting=True))
    with pytest.raises(Unavailable):
        await world.pass_over()
    world.cluster.keep(replace(live, annotations={names.ANNOTATION_SKIP_CLEANUP: "true"}))
    await world.pass_over()

    assert world.cluster.took() == [("release", INSTANCE)]


async def test_an_instance_that_vanished_leaves_the_record(world: World):
    """Also without a finalizer, what this process published is taken back."""
    world.template()
    world.instance()
    await world.settle()
    world.cluster.cache.drop(world.cluster.cache.get(INSTANCE))
    assert await world.pass_over() is None

    assert world.record.instances["uid-hello"].deleted
    assert await world.pass_over(Key(Kind.INSTANCE, "acme", "never-seen")) is None


async def test_slots_are_judged_one_by_one(world: World):
    """Each way in which a credential can be missing or wrong has a reason of its own."""
    optional = {"name": "extra", "hosts": ["x.example.com"], "required": "Optional"}
    world.template(credentials=[SLOT, optional])
    await world.pass_over(TEMPLATE)

    async def said() -> str:
        await world.pass_over(CREDENTIAL)
        await world.begin()
        return world.says(ConditionType.CREDENTIALS_READY)[1]

    world.instance()
    assert await said() == "CredentialNotBound"
    world.instance(credentials=BOUND)
    assert await said() == "CredentialNotFound"
    world.credential(allowedInstances=["other"])
    assert await said() == "CredentialNotAllowed"
    world.credential()
    assert await said() == "CredentialPending"
    row = world.record.credentials["uid-mine"]
    row.seen = CredentialObservation(reason="SecretNotFound", fingerprint="", changed_at=None)
    assert await said() == "CredentialNotReady"
    row.seen = CredentialObservation(reason="CredentialVerified", fingerprint="ab", changed_at=world.clock())
    assert await said() == "CredentialsReady"
    world.credential(hosts=["has space"])
    assert await said() == "CredentialNotFound"


async def test_a_credential_shows_what_the_gateway_saw(world: World):
    """Pending at first, then the reason and the fingerprint; never more calls than changes."""
    world.credential()
    assert await world.pass_over(CREDENTIAL) == 2.0
    assert world.credential_says(ConditionType.READY)[:2] == ("Unknown", "CredentialPending")
    row = world.record.credentials["uid-mine"]
    for reason, words in (
        ("SecretNotFound", "There is no Secret s in the namespace."),
        ("SecretKeyNotFound", "Secret s has no key k."),
        ("NamespaceNotEnrolled", "not enrolled"),
    ):
        row.seen = CredentialObservation(reason=reason, fingerprint="", changed_at=None)
        assert await world.pass_over(CREDENTIAL) is None
        assert world.credential_says(ConditionType.READY)[1] == reason
        assert words in world.credential_says(ConditionType.READY)[2]
    row.seen = CredentialObservation(
        reason="CredentialVerified", fingerprint="ab12", changed_at=world.clock()
    )
    await world.pass_over(CREDENTIAL)
    seen = parse.credential_status(world.cluster.cache.get(CREDENTIAL))

    assert (seen.fingerprint, seen.last_changed_time) == ("ab12", conditions.stamp(world.clock()))
    world.cluster.took()
    await world.pass_over(CREDENTIAL)
    assert world.cluster.took() == []


async def test_limits_are_published_with_what_they_are_of(world: World):
    """Template, instance and credential are each published with their own limits."""
    world.template(limits={"concurrency": 9})
    world.instance(limits={"rate": {"runs": 3}})
    world.credential(limits={"concurrency": 2})
    await world.settle()
    await world.pass_over(CREDENTIAL)

    published = world.record.instances["uid-hello"].published
    (credential,) = world.record.credentials.values()
    assert published.limits == Limits(rate=Rate(runs=3, period_seconds=60))
    assert world.record.templates["uid-greeter"].limits == Limits(concurrency=9)
    assert credential.published.limits == Limits(concurrency=2)


async def test_a_credential_that_breaks_a_rule_is_withdrawn(world: World):
    """A credential for a host that is not allowed is not published, and no longer if it was."""
    world.credential()
    await world.pass_over(CREDENTIAL)
    world.credential(hosts=["10.0.0.1"])
    await world.pass_over(CREDENTIAL)

    assert world.credential_says(ConditionType.ACCEPTED)[0] == "False"
    assert world.record.credentials == {}


async def test_a_credential_follows_its_object(world: World):
    """A deleted one leaves the record; one that came back under the same name replaces it."""
    world.credential()
    await world.pass_over(CREDENTIAL)
    world.cluster.cache.drop(world.cluster.cache.get(CREDENTIAL))
    world.cluster.put(Kind.CREDENTIAL, "mine", spec=SECRET, uid="second")
    await world.pass_over(CREDENTIAL)
    assert list(world.record.credentials) == ["second"]
    world.cluster.cache.drop(world.cluster.cache.get(CREDENTIAL))
    await world.pass_over(CREDENTIAL)
    await world.pass_over(CREDENTIAL)

    assert world.record.credentials == {}


async def test_without_the_record_nothing_is_said_to_be_ready(world: World):
    """Template and credential are unknown, not ready, while their content is not published."""
    world.record.down = True
    world.template()
    world.credential()
    assert await world.pass_over(TEMPLATE) == 5.0
    assert await world.pass_over(CREDENTIAL) == 5.0

    assert world.template_says(ConditionType.READY)[:2] == ("Unknown", "RecordUnavailable")
    assert world.credential_says(ConditionType.READY)[:2] == ("Unknown", "RecordUnavailable")


async def test_a_template_counts_its_instances_and_keeps_its_content(world: World):
    """The status shows revision and instances; the record gets the content; a foreign name is reported."""
    world.template()
    world.instance()
    await world.pass_over(TEMPLATE)
    status = parse.template_status(world.cluster.cache.get(TEMPLATE))

    assert status.instances == 1
    assert json.loads(world.record.revisions[("acme", status.revision)].spec) == AGENT
    assert await world.pass_over(Key(Kind.TEMPLATE, "acme", "unknown")) is None

    other = World()
    other.template()
    key = Key(Kind.REVISION, "acme", f"greeter-{status.revision[:10]}")
    other.cluster.foreign[key] = Live(key=key, uid="theirs", resource_version=1)
    assert await other.pass_over(TEMPLATE) == 60.0
    assert other.template_says(ConditionType.READY)[:2] == ("False", "Conflict")
    other.cluster.foreign[key] = replace(other.cluster.foreign[key], deleting=True)
    assert await other.pass_over(TEMPLATE) == 1.0


async def test_old_contents_are_removed_but_not_those_in_use(world: World):
    """Of many contents the newest few stay, and every one that an instance pins or runs."""
    world.template(description="0")
    world.instance()
    await world.settle()
    used = world.status().revision.current
    world.instance(updatePolicy="Manual", revision=used)
    await world.pass_over()
    for number in range(1, 15):
        world.template(description=str(number))
        await world.pass_over(TEMPLATE)
    template = world.cluster.cache.get(TEMPLATE)
    kept = {r.revision for r in world.cluster.cache.owned_by(template.uid)}

    assert len(kept) == 12
    assert used in kept


async def test_a_revision_of_another_version_is_passed_over(world: World):
    """A kept content that this version cannot read does not stop the instance's reconcile."""
    world.template()
    world.instance()
    await world.settle()
    template = world.cluster.cache.get(TEMPLATE)
    revision = world.cluster.cache.owned_by(template.uid)[0]
    world.cluster.keep(replace(revision, content=b'{"data": {"strange": 1}, "revision": 1}'))
    await world.pass_over()

    assert world.says(ConditionType.TEMPLATE_RESOLVED)[:2] == ("Unknown", "Reconciling")
    assert world.children(Kind.DEPLOYMENT)


async def test_ghosts_leave_the_record(world: World):
    """What the cluster no longer has goes; what it has stays."""
    registry = MemoryRegistry(world.record)
    world.template()
    world.instance()
    world.credential()
    await world.settle()
    await world.pass_over(CREDENTIAL)
    ghost = {"namespace": "acme", "name": "ghost", "generation": 1}
    await registry.publish_instance(
        PublishedInstance(
            uid="ghost", template="greeter", service_account="x", current_revision=None, config=b"{}", **ghost
        )
    )
    await registry.publish_credential(
        PublishedCredential(
            uid="lost",
            type="Bearer",
            header="",
            secret_name="s",
            secret_key="k",
            hosts=(),
            allowed_instances=(),
            **ghost,
        )
    )

    assert await remove_ghosts(registry, world.cluster.cache) == 2
    assert await registry.known_instances() == {"uid-hello"}
    assert await registry.known_credentials() == {"uid-mine"}


async def test_a_doubted_queue_is_asked_for_again(world: World):
    """A full comparison asks for every queue; a status that nobody can read is written anew."""
    world.template()
    world.instance()
    await world.settle()
    world.record.instances["uid-hello"].queue_ready = False
    await world.pass_over()
    assert world.says(ConditionType.QUEUE_READY)[0] == "True"
    world.publisher.doubt()
    await world.pass_over()
    assert world.says(ConditionType.QUEUE_READY)[:2] == ("False", "QueuePending")
    world.cluster.keep(replace(world.cluster.cache.get(INSTANCE), status=b'{"conditions": 3}'))
    await world.pass_over()
    assert world.says(ConditionType.QUEUE_READY)[0] == "False"


def of_work(count: int, world: World, *, revision: str | None = None, state: RunState = RunState.QUEUED):
    """Put runs of the instance into the record."""
    for _ in range(count):
        request = wish(instance_uid="uid-hello", instance="hello")
        row = RunRow(request=request, created_at=world.record.now(), due_at=world.record.now())
        row.revision, row.state = revision, state
        world.record.rows[request.id] = row


class Scaled(World):
    """A world whose instance follows its work, as the loop of the controller lets it."""

    @property
    def watch(self) -> DemandWatch:
        return self.instances.scale.watch

    async def live(self, seconds: float) -> None:
        """Let time pass, second by second, with a pass whenever the watch asks for one."""
        for _ in range(int(seconds)):
            self.seconds += 1
            self.clock.forward(1)
            if await self.watch.look():
                await self.pass_over()
                self.workers_are_up()
                await self.pass_over()

    def replicas(self) -> dict[str, int]:
        return {d.revision: json.loads(d.content)["spec"]["replicas"] for d in self.children(Kind.DEPLOYMENT)}

    @property
    def number(self) -> int:
        (number,) = self.replicas().values()
        return number

    async def leaves(self, pod: str, revision: str = "") -> bool:
        """Play a worker that holds nothing."""
        seat = WorkerSeat(
            instance_uid="uid-hello",
            namespace="acme",
            instance="hello",
            revision=revision or self.status().revision.current,
            pod=pod,
        )
        gateway = MemoryGateway(self.record)
        if not await gateway.offer_to_leave(seat, holds=0, claims=True):
            return False
        return await gateway.offer_to_leave(seat, holds=0, claims=False)


@pytest.fixture
async def scaled() -> Scaled:
    world = Scaled()
    world.template(worker={"slots": 2})
    world.instance(workers={"autoscaling": {"maxReplicas": 3, "idleSeconds": 10}})
    await world.settle()
    return world


async def at_zero(world: Scaled) -> None:
    world.cluster.pods = {"first"}
    await world.live(12)
    assert await world.leaves("first")
    await world.live(3)
    assert world.number == 0
    world.cluster.took()
    world.cluster.told.clear()


async def test_a_revision_proves_itself_then_the_last_worker_goes(scaled: Scaled):
    """One worker shows that the revision works; idle, it is asked, leaves, and nothing is looked at any more."""
    assert (scaled.number, scaled.status().revision.current is not None) == (1, True)
    await at_zero(scaled)

    assert scaled.says(ConditionType.READY)[0] == "True"
    workers = scaled.status().workers
    assert (workers.desired, workers.reason, workers.available) == (0, "ScaledToZero", 0)
    assert scaled.record.instances["uid-hello"].published.quiet == (scaled.status().revision.current,)
    scaled.record.down = True
    assert await scaled.watch.look() == []


async def test_at_rest_a_pass_at_zero_calls_nothing(scaled: Scaled):
    """Looking again at an instance without workers writes nothing, and asks the record nothing."""
    await at_zero(scaled)
    scaled.record.down = True

    assert await scaled.pass_over() is None
    assert (scaled.cluster.took(), scaled.cluster.told) == ([], [])


async def test_told_work_starts_as_many_workers_as_it_needs(scaled: Scaled):
    """From zero at a word; one write of the Deployment, one Event, and the instance stays Ready."""
    await at_zero(scaled)
    of_work(3, scaled)
    scaled.watch.wake("uid-hello")

    assert await scaled.watch.look() == ["uid-hello"]
    await scaled.pass_over()
    assert scaled.number == 2
    assert [verb for verb, _ in scaled.cluster.took()] == ["apply", "status"]
    assert [(n.reason, n.message.split(" of ")[0]) for n in scaled.cluster.told] == [
        (Reason.SCALED_OUT, "From 0 to 2 workers")
    ]
    assert scaled.says(ConditionType.READY)[0] == "True"
    assert scaled.record.instances["uid-hello"].published.quiet == ()
    assert scaled.children(Kind.DISRUPTION_BUDGET) != []


async def test_no_worker_is_started_that_a_limit_keeps_idle(scaled: Scaled):
    """With a limit of two runs at once, one worker of two slots is all that much work needs."""
    await at_zero(scaled)
    bounds = {"maxReplicas": 3, "idleSeconds": 10}
    scaled.instance(workers={"autoscaling": bounds}, limits={"concurrency": 2})
    of_work(100, scaled)
    scaled.watch.wake("uid-hello")

    await scaled.watch.look()
    await scaled.pass_over()
    assert scaled.number == 1


async def test_a_flood_of_words_is_one_look(scaled: Scaled):
    """Being told of work again and again, while it is watched, leads to nothing more."""
    await at_zero(scaled)
    of_work(100, scaled)
    for _ in range(1000):
        scaled.watch.wake("uid-hello")

    assert await scaled.watch.look() == ["uid-hello"]
    await scaled.pass_over()
    for _ in range(1000):
        scaled.watch.wake("uid-hello")
    assert (await scaled.watch.look(), scaled.number) == ([], 3)


async def test_work_that_comes_as_the_controller_looks_away_is_found(scaled: Scaled, monkeypatch):
    """Between the last look and the word that it looks no more, somebody accepts a run and tells nobody."""
    publish = scaled.publisher.instance

    async def late(key, wanted):
        if wanted.quiet and not scaled.record.rows:
            of_work(1, scaled)
        return await publish(key, wanted)

    monkeypatch.setattr(scaled.publisher, "instance", late)
    scaled.cluster.pods = {"first"}
    await scaled.live(12)
    await scaled.leaves("first")
    await scaled.live(4)

    assert scaled.number == 1


async def test_pods_of_busy_workers_stay(scaled: Scaled):
    """Three workers, work for one: the two that hold nothing go, each by name, the busy one stays."""
    of_work(6, scaled, revision=scaled.status().revision.current, state=RunState.RUNNING)
    await scaled.live(2)
    assert scaled.number == 3
    for row in list(scaled.record.rows.values())[2:]:
        row.state = RunState.SUCCEEDED
    scaled.cluster.pods = {"busy", "idle-1", "idle-2"}

    await scaled.live(30)
    assert (scaled.number, scaled.cluster.removed) == (3, [])
    assert await scaled.leaves("idle-1")
    await scaled.live(2)
    assert (scaled.number, scaled.cluster.removed) == (2, ["idle-1"])
    assert await scaled.leaves("idle-2")
    await scaled.live(2)
    assert (scaled.number, scaled.cluster.removed) == (1, ["idle-1", "idle-2"])
    await scaled.live(60)
    assert (scaled.number, scaled.cluster.pods) == (1, {"busy"})
    assert [n.reason for n in scaled.cluster.told].count(Reason.SCALED_IN) == 2


async def test_a_worker_that_left_and_died_takes_nobody_along(scaled: Scaled):
    """Its pod is gone and replaced by Kubernetes already: the number stays, and nothing is deleted."""
    of_work(4, scaled, revision=scaled.status().revision.current, state=RunState.RUNNING)
    await scaled.live(2)
    for row in list(scaled.record.rows.values())[2:]:
        row.state = RunState.SUCCEEDED
    await scaled.live(12)
    assert await scaled.leaves("gone")
    await scaled.live(2)

    assert (scaled.number, scaled.cluster.removed) == (2, [])
    (row,) = scaled.record.scale_ins.values()
    assert row.leavers == {}


async def test_a_record_that_is_away_changes_no_number(scaled: Scaled):
    """Without the record nobody knows who holds what: workers stay, children are cared for."""
    scaled.cluster.pods = {"first"}
    await scaled.live(8)
    scaled.record.down = True
    scaled.seconds += 100
    await scaled.pass_over()

    assert scaled.number == 1


async def test_a_restarted_controller_takes_nothing_away_at_once(scaled: Scaled):
    """It begins with what is there, and watches for a while before workers are asked to leave."""
    of_work(6, scaled)
    await scaled.live(2)
    scaled.record.rows.clear()
    watch = DemandWatch(MemoryRegistry(scaled.record), lambda: scaled.seconds)
    heir = replace(scaled.instances.scale, watch=watch)
    scaled.instances = replace(scaled.instances, scale=heir, publisher=Publisher(watch.registry))
    scaled.cluster.took()
    await scaled.pass_over()
    await scaled.live(5)

    assert (scaled.number, scaled.cluster.took()) == (3, [])
    assert scaled.record.scale_ins.get(("uid-hello", scaled.status().revision.current)) is None


@pytest.fixture
async def waiting() -> tuple[Scaled, str, str]:
    """Yield a world in which a run of the old revision waits for a person, and both revisions."""
    world = Scaled()
    world.template()
    world.instance(workers={"replicas": 2})
    await world.settle()
    old = world.status().revision.current
    of_work(1, world, revision=old, state=RunState.WAITING)
    world.template(description="New.")
    await world.pass_over(TEMPLATE)
    await world.pass_over()
    world.workers_are_up()
    await world.pass_over()
    new = world.status().revision.current
    assert world.replicas() == {old: 2, new: 2}
    world.cluster.pods = {"a", "b"}
    await world.live(SITE.grace_seconds + 2)
    return world, old, new


async def test_an_old_revision_waits_without_workers(waiting: tuple[Scaled, str, str]):
    """A run of it that waits for a person keeps the Deployment, as it was, but none of its pods."""
    world, old, new = waiting
    before = old_pods(world, old)
    assert [await world.leaves(pod, old) for pod in ("a", "b", "c")] == [True, True, False]
    await world.live(3)

    assert world.replicas() == {old: 0, new: 2}
    assert old_pods(world, old) == before
    assert world.record.instances["uid-hello"].published.quiet == (old,)
    assert await world.pass_over() == 60.0


async def test_an_old_revision_comes_back_for_its_run(waiting: tuple[Scaled, str, str]):
    """Approved, the run gets a worker of the revision that it started on; then the revision goes for good."""
    world, old, new = waiting
    for pod in ("a", "b"):
        await world.leaves(pod, old)
    await world.live(3)
    (row,) = world.record.rows.values()
    row.state = RunState.QUEUED
    world.watch.wake("uid-hello")
    await world.live(1)
    assert world.replicas() == {old: 1, new: 2}

    row.state = RunState.SUCCEEDED
    world.publisher.hint("uid-hello")
    await world.pass_over()
    world.clock.forward(SITE.grace_seconds + 1)
    await world.pass_over()
    assert world.replicas() == {new: 2}


def old_pods(world: World, revision: str) -> object:
    live = next(d for d in world.children(Kind.DEPLOYMENT) if d.revision == revision)
    return json.loads(live.content)["spec"]["template"]


async def test_a_new_revision_comes_up_as_large_as_the_old_one_is(scaled: Scaled):
    """Taking over does not begin with too few workers; the old one then goes as its work does."""
    old = scaled.status().revision.current
    of_work(6, scaled)
    await scaled.live(2)
    assert scaled.number == 3
    scaled.template(worker={"slots": 2}, description="New.")
    await scaled.pass_over(TEMPLATE)
    await scaled.pass_over()

    assert scaled.replicas() == {old: 3, scaled.status().revision.desired: 3}


async def test_workers_that_never_come_up_are_said(scaled: Scaled):
    """An instance that should have a worker, and gets none for a minute, is not Ready."""
    await at_zero(scaled)
    of_work(1, scaled)
    scaled.watch.wake("uid-hello")
    for _ in range(62):
        scaled.seconds += 1
        if await scaled.watch.look():
            await scaled.pass_over()

    assert scaled.says(ConditionType.WORKERS_AVAILABLE)[:2] == ("False", "WorkersUnavailable")
    assert scaled.says(ConditionType.READY)[0] == "False"


async def test_the_controller_looks_on_until_the_last_worker_is_gone(scaled: Scaled):
    """That nothing is to be done is not all: a worker that is to leave is still waited for."""
    await scaled.live(15)
    (row,) = scaled.record.scale_ins.values()

    assert (scaled.number, row.wanted) == (1, 1)
    assert scaled.record.instances["uid-hello"].published.quiet == ()


@pytest.fixture
async def fixed() -> Scaled:
    """Three workers because somebody says so, with nothing to do."""
    world = Scaled()
    world.template(worker={"slots": 2})
    world.instance(workers={"replicas": 3})
    await world.settle()
    world.cluster.pods = {"busy", "idle-1", "idle-2"}
    await world.live(2)
    assert world.number == 3
    return world


async def say(world: Scaled, replicas: int) -> None:
    world.instance(workers={"replicas": replicas})
    await world.pass_over()
    await world.live(1)


async def test_a_fixed_number_is_not_looked_after(fixed: Scaled):
    """While there are as many as somebody says, the record is not asked and nothing is told of work."""
    fixed.record.down = True

    assert list(fixed.watch.numbers()) == [(Reason.FIXED_NUMBER, 3, 3)]
    assert await fixed.watch.look() == []
    assert fixed.record.instances["uid-hello"].published.quiet == ()
    assert (fixed.cluster.took(), fixed.cluster.told) == ([], [])


async def test_a_lowered_number_stops_no_worker_that_holds_a_run(fixed: Scaled):
    """From three to one: the idle ones leave by name, the busy one stays, and the status says one all along."""
    of_work(2, fixed, revision=fixed.status().revision.current, state=RunState.RUNNING)
    await say(fixed, 1)
    assert (fixed.number, fixed.cluster.removed) == (3, [])
    workers = fixed.status().workers
    assert (workers.desired, workers.reason) == (1, "FixedNumber")
    for pod in ("idle-1", "idle-2"):
        assert await fixed.leaves(pod)
        await fixed.live(2)

    assert (fixed.number, fixed.cluster.removed, fixed.cluster.pods) == (1, ["idle-1", "idle-2"], {"busy"})
    assert fixed.says(ConditionType.READY)[0] == "True"
    await fixed.live(1)
    fixed.record.down = True
    assert await fixed.watch.look() == []


async def test_none_by_a_persons_word_lets_the_busy_finish(fixed: Scaled):
    """To none: whoever holds a run is asked too, and its Deployment is lowered once it holds nothing."""
    of_work(2, fixed, revision=fixed.status().revision.current, state=RunState.RUNNING)
    await say(fixed, 0)
    (row,) = fixed.record.scale_ins.values()
    assert (fixed.number, row.wanted, row.drains) == (3, 3, True)
    for pod in sorted(fixed.cluster.pods):
        assert await fixed.leaves(pod)
        await fixed.live(2)

    assert fixed.number == 0
    assert fixed.says(ConditionType.READY) == ("True", "Ready", "New runs wait: spec.workers.replicas is 0.")


async def test_a_number_that_is_raised_again_takes_the_question_back(fixed: Scaled):
    """Three, one, three: nobody is to leave any more, and nobody was stopped."""
    await say(fixed, 1)
    await say(fixed, 3)
    await fixed.live(2)
    (row,) = fixed.record.scale_ins.values()

    assert (fixed.number, row.wanted, fixed.cluster.removed) == (3, 0, [])
    assert not await fixed.leaves("idle-1")


async def test_a_restarted_controller_goes_on_lowering(fixed: Scaled):
    """Its heir finds in the record who was asked, and stops nobody else."""
    await say(fixed, 1)
    assert await fixed.leaves("idle-1")
    watch = DemandWatch(MemoryRegistry(fixed.record), lambda: fixed.seconds)
    heir = replace(fixed.instances.scale, watch=watch)
    fixed.instances = replace(fixed.instances, scale=heir, publisher=Publisher(watch.registry))
    await fixed.pass_over()
    assert fixed.number == 3
    await fixed.live(2)
    assert (fixed.number, fixed.cluster.removed) == (2, ["idle-1"])
    assert await fixed.leaves("idle-2")
    await fixed.live(2)

    assert (fixed.number, fixed.cluster.pods) == (1, {"busy"})


async def test_without_the_record_no_number_is_lowered(fixed: Scaled):
    """Nobody knows then who holds runs; more workers come all the same."""
    fixed.record.down = True
    fixed.instance(workers={"replicas": 1})
    await fixed.pass_over()
    lowered = fixed.number
    fixed.instance(workers={"replicas": 4})
    await fixed.pass_over()

    assert (lowered, fixed.number) == (3, 4)


async def test_a_number_edited_by_hand_is_put_back_at_once(fixed: Scaled):
    """Workers that nobody asked the controller for are not waited for."""
    (deployment,) = fixed.children(Kind.DEPLOYMENT)
    await fixed.cluster.resize(deployment, 7)
    fixed.workers_are_up()
    await fixed.pass_over()

    assert (fixed.number, fixed.record.scale_ins) == (3, {})


async def test_who_was_to_leave_stays_once_somebody_fixes_the_number(scaled: Scaled):
    """Three workers without work, all asked to leave; then a person says three: three there are, and stay."""
    of_work(6, scaled)
    await scaled.live(2)
    scaled.record.rows.clear()
    scaled.cluster.pods = {"a", "b", "c"}
    await scaled.live(14)
    assert await scaled.leaves("a")
    (row,) = scaled.record.scale_ins.values()
    assert (scaled.number, row.wanted) == (3, 3)

    await say(scaled, 3)
    await scaled.live(4)

    assert (scaled.number, row.wanted, row.leavers) == (3, 0, {})
    assert not await scaled.leaves("b")


async def test_workers_follow_the_work_again_once_nobody_fixes_the_number(fixed: Scaled):
    """From three by a person's word to as many as the work needs, with its reason."""
    fixed.instance(workers={"autoscaling": {"maxReplicas": 3, "idleSeconds": 10}})
    await fixed.pass_over()
    assert (fixed.number, fixed.status().workers.reason) == (3, "AtMinimum")
    await fixed.live(12)
    for pod in ("busy", "idle-1", "idle-2"):
        assert await fixed.leaves(pod)
        await fixed.live(2)

    assert (fixed.number, fixed.status().workers.reason) == (0, "ScaledToZero")


async def test_a_question_that_could_not_be_asked_is_asked_again(fixed: Scaled, monkeypatch):
    """PostgreSQL goes away between the look and the question; once it is back, workers are asked."""
    ask, failures = fixed.watch.registry.ask_to_leave, iter([Unavailable("away")])

    async def flaky(*given, **named):
        for error in failures:
            raise error
        await ask(*given, **named)

    monkeypatch.setattr(fixed.watch.registry, "ask_to_leave", flaky)
    await say(fixed, 1)
    await fixed.live(2)

    (row,) = fixed.record.scale_ins.values()
    assert row.wanted == 2


async def test_a_pinned_instance_grows_with_the_limits_of_its_template(world: World):
    """The template's limit is that of its newest content, for the number of workers as for the runs."""
    scaled = Scaled()
    scaled.template(worker={"slots": 1}, limits={"concurrency": 1})
    scaled.instance(workers={"autoscaling": {"maxReplicas": 3}})
    await scaled.settle()
    pin = scaled.status().revision.current
    scaled.instance(workers={"autoscaling": {"maxReplicas": 3}}, updatePolicy="Manual", revision=pin)
    scaled.template(worker={"slots": 1}, limits={"concurrency": 100})
    await scaled.pass_over(TEMPLATE)
    await scaled.pass_over()
    of_work(9, scaled)
    await scaled.live(2)

    assert (scaled.status().revision.current, scaled.number) == (pin, 3)


async def test_the_limits_of_a_template_go_with_it(world: World):
    """A template that is deleted limits nothing any more, also when nobody was there to see it."""
    world.template(limits={"concurrency": 9})
    await world.settle()
    registry = MemoryRegistry(world.record)
    await registry.publish_template(
        PublishedTemplate(
            uid="gone", namespace="acme", name="gone", generation=1, limits=Limits(concurrency=1)
        )
    )
    assert await remove_ghosts(registry, world.cluster.cache) == 1
    assert set(world.record.limits) == {"template/acme/greeter"}

    world.cluster.cache.drop(world.cluster.cache.get(TEMPLATE))
    await world.pass_over(TEMPLATE)
    assert (world.record.templates, world.record.limits) == ({}, {})
