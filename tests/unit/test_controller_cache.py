"""Cache and watching: what is kept, what is news, and who is to hear of it."""

from dataclasses import replace

import pytest

from everesthood.adapters.kubernetes.cache import Cache, Change, live_of
from everesthood.adapters.kubernetes.watching import Watching
from everesthood.apis import names
from everesthood.domain.observed import Key, Kind
from everesthood.entrypoints.controller.watch import build_registry

HELLO = Key(Kind.INSTANCE, "acme", "hello")
GREETER = Key(Kind.TEMPLATE, "acme", "greeter")
MINE = Key(Kind.CREDENTIAL, "acme", "mine")


class Line:
    """A queue that takes notes."""

    def __init__(self) -> None:
        self.soon: list[Key] = []
        self.later: list[tuple[Key, float]] = []

    def add_soon(self, key: Key, *, edited: bool = False) -> None:
        self.soon.append(key)

    def add_after(self, key: Key, seconds: float) -> None:
        self.later.append((key, seconds))


def raw(kind: Kind = Kind.INSTANCE, name: str = "hello", version: int = 1, owner: str = "", **rest):
    meta = {"name": name, "namespace": "acme", "uid": f"uid-{kind}-{name}", "resourceVersion": str(version)}
    if owner:
        meta["ownerReferences"] = [{"uid": "other"}, {"uid": owner, "controller": True}]
    meta |= rest.pop("metadata", {})
    spec = {
        "templateRef": {"name": "greeter"},
        "credentials": [{"slot": "s", "credentialRef": {"name": "mine"}}],
    }
    return {"metadata": meta, "spec": spec if kind is Kind.INSTANCE else {}, **rest}


def live(kind: Kind = Kind.INSTANCE, name: str = "hello", version: int = 1, **rest):
    return live_of(kind, raw(kind, name, version, **rest))


def watching() -> tuple[Watching, Cache, Line]:
    cache, line = Cache(), Line()
    return Watching(cache, line, rng=lambda: 1.0), cache, line  # type: ignore[arg-type]


def test_only_what_is_read_is_kept():
    """managedFields, users' labels and foreign annotations are not worth memory."""
    noise = {
        "labels": {"team": "red"},
        "managedFields": [1],
        "annotations": {"a": "b", f"{names.GROUP}/x": "y"},
    }
    status = {
        "replicas": 1,
        "collisionCount": 3,
        "conditions": [{"type": "B", "lastUpdateTime": "x"}, {"type": "A"}],
    }
    kept = live(metadata=noise)
    child = live(Kind.DEPLOYMENT, metadata=noise, status=status)

    assert (kept.labels, kept.annotations) == ({}, {f"{names.GROUP}/x": "y"})
    assert child.labels == {"team": "red"}
    assert child.status == b'{"replicas":1,"conditions":[{"type":"A"},{"type":"B"}]}'
    assert live(Kind.SERVICE_ACCOUNT, status={"a": 1}).status == b"{}"


@pytest.mark.parametrize(
    "spec",
    [None, {}, {"templateRef": 3, "credentials": [1, {"credentialRef": {}}]}, {"credentials": {"a": 1}}, []],
)
def test_a_strange_spec_names_nothing(spec):
    """What an instance names is read before it is judged, so anything may stand there."""
    assert live_of(Kind.INSTANCE, {**raw(), "spec": spec}).refs == ()


def test_older_states_are_ignored():
    """A late event never overwrites a newer state, also not one read as the answer to a write."""
    cache = Cache()
    cache.put(live(version=5))

    assert cache.put(live(version=5)) is None
    assert cache.put(live(version=4)) is None
    assert cache.put(live(version=6)) is not None


def test_indexes_go_both_ways():
    """Owner → children, named → namers, uid → key; all forget what goes."""
    cache = Cache()
    instance, child = live(), live(Kind.DEPLOYMENT, "agent-hello", owner="uid-AgentInstance-hello")
    cache.put(instance)
    cache.put(child)

    assert cache.owned_by(instance.uid) == (child,)
    assert cache.referrers(GREETER) == cache.referrers(MINE) == (HELLO,)
    assert (cache.key_of(instance.uid), cache.knows(child.uid)) == (HELLO, False)
    assert cache.keys_of_published() == cache.keys(Kind.INSTANCE) == (HELLO,)
    assert cache.uids(Kind.INSTANCE) == {instance.uid}
    cache.drop(instance)
    cache.drop(child)
    assert cache.owned_by(instance.uid) == cache.referrers(GREETER) == ()
    assert not cache.knows(instance.uid)
    assert cache.get(HELLO) is None


def test_a_namesake_is_not_dropped():
    """The late DELETED of a predecessor does not take away its successor."""
    cache = Cache()
    cache.put(live(version=9, metadata={"uid": "second"}))

    assert cache.drop(live(version=8)) is None
    assert cache.get(HELLO) is not None
    assert cache.drop(live(name="unknown")) is None


def test_a_list_finds_ghosts_but_keeps_what_is_newer():
    """What a complete list lacks is gone, unless it came while the list was read."""
    cache = Cache()
    cache.put(live(name="ghost", version=3))
    cache.put(live(name="newer", version=12))
    cache.put(live(name="same", version=4))
    listed = [live(name="same", version=4), live(name="fresh", version=5)]
    changes = cache.replace(Kind.INSTANCE, listed, 10)

    assert {(c.key.name, c.after is None) for c in changes} == {("fresh", False), ("ghost", True)}
    assert cache.get(Key(Kind.INSTANCE, "acme", "newer")) is not None


@pytest.mark.parametrize(
    ("kind", "change", "relevant"),
    [
        (Kind.INSTANCE, {"resource_version": 2}, False),
        (Kind.INSTANCE, {"status": b'{"a":1}'}, False),
        (Kind.TEMPLATE, {"status": b'{"a":1}'}, True),
        (Kind.DEPLOYMENT, {"status": b'{"replicas":1}'}, True),
        (Kind.INSTANCE, {"content": b'{"spec":1}'}, True),
        (Kind.INSTANCE, {"deleting": True}, True),
        (Kind.INSTANCE, {"annotations": {"agents.everesthood.io/skip-cleanup": "true"}}, True),
        (Kind.DEPLOYMENT, {"labels": {"a": "b"}}, True),
        (Kind.DEPLOYMENT, {"owner": "x"}, True),
    ],
)
def test_only_what_decisions_read_is_news(kind, change, relevant):
    """A new resourceVersion alone, or the controller's own status, leads to no pass."""
    before = live(kind)

    assert Change(before, replace(before, **change)).is_relevant is relevant


def test_an_instance_tells_itself_and_its_template():
    """A new instance is looked at, and its template counts it; an edit concerns the instance alone."""
    watch, _, line = watching()
    watch.saw("ADDED", live(Kind.TEMPLATE, "greeter"))
    line.soon.clear()
    watch.saw("ADDED", live())
    assert line.soon == [HELLO, GREETER]
    line.soon.clear()
    watch.saw("MODIFIED", live(version=2, status={"a": 1}))
    watch.saw("MODIFIED", live(version=3, metadata={"finalizers": ["x"]}))
    assert line.soon == [HELLO]
    watch.saw("DELETED", live(version=4))
    assert line.soon == [HELLO, HELLO, GREETER]


def test_a_credential_tells_who_binds_it():
    """Instances hear of their credential, whoever wrote it; the controller's own write spares the writer."""
    watch, _, line = watching()
    watch.saw(None, live())
    line.soon.clear()
    watch.saw("ADDED", live(Kind.CREDENTIAL, "mine"))
    assert line.soon == [MINE, HELLO]
    line.soon.clear()
    watch.wrote(live(Kind.CREDENTIAL, "mine", 2, status={"a": 1}))
    watch.wrote(live(Kind.CREDENTIAL, "mine", 3, status={"a": 1}))
    assert line.soon == [HELLO]


def test_a_child_tells_its_owner():
    """A child's change leads to a pass of its owner; one without an owner of ours to none."""
    watch, _, line = watching()
    watch.saw(None, live())
    line.soon.clear()
    watch.saw("ADDED", live(Kind.DEPLOYMENT, "agent-hello", owner="uid-AgentInstance-hello"))
    watch.saw("ADDED", live(Kind.DEPLOYMENT, "stray"))
    watch.saw("DELETED", live(Kind.DEPLOYMENT, "agent-hello", 2, owner="uid-AgentInstance-hello"))
    watch.wrote(live(Kind.DEPLOYMENT, "agent-hello", 3, owner="uid-AgentInstance-hello"))

    assert line.soon == [HELLO, HELLO]


def test_a_new_revision_tells_all_instances_of_its_template():
    """Those that wait for a revision are woken when it comes."""
    watch, _, line = watching()
    watch.saw(None, live(Kind.TEMPLATE, "greeter"))
    watch.saw(None, live())
    line.soon.clear()
    watch.wrote(live(Kind.REVISION, "greeter-1", owner="uid-AgentTemplate-greeter"))
    watch.saw("MODIFIED", live(Kind.REVISION, "greeter-1", 2, owner="uid-AgentTemplate-greeter"))

    assert line.soon == [HELLO]


def test_a_crowd_is_spread():
    """A template of many instances does not wake them all in one moment."""
    watch, _, line = watching()
    for number in range(60):
        watch.saw(None, live(name=f"i{number}"))
    line.soon.clear()
    watch.saw("ADDED", live(Kind.TEMPLATE, "greeter"))

    assert line.soon == [GREETER]
    assert {seconds for _, seconds in line.later} == {2.0}
    assert len(line.later) == 60


def test_everything_can_be_looked_at_again():
    """A full comparison enqueues every object of ours, and children only through their owners."""
    watch, _, line = watching()
    news = watch.listed(Kind.INSTANCE, [live()], 5)
    watch.listed(Kind.DEPLOYMENT, [live(Kind.DEPLOYMENT, "agent-hello", owner="uid-AgentInstance-hello")], 5)
    watch.look_at_all(3.0)

    assert news == 1
    assert line.later == [(HELLO, 3.0)]


async def test_an_object_that_was_taken_in_takes_no_room_any_more():
    """Kopf keeps what it has shown for a while; of that only what it reads itself is left."""
    taken = []
    registry = build_registry(lambda event, live: taken.append((event, live)), None)  # type: ignore[arg-type]
    (handler,) = [h for h in registry._watching._handlers if h.id == "watch-agentinstances"]
    event = {
        "type": None,
        "object": raw(status={"a": 1}, metadata={"managedFields": [1], "finalizers": ["f"]}),
    }

    await handler.fn(event=event)

    assert [(e, found.content, found.status) for e, found in taken] == [(None, live().content, b'{"a":1}')]
    assert event["object"].keys() == {"metadata"}
    assert "managedFields" not in event["object"]["metadata"]
    assert event["object"]["metadata"]["finalizers"] == ["f"]
