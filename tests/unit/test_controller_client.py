"""The client and what stands on it, against an HTTP server that plays an API server."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import ApiClient, Configuration

from everesthood.adapters.kubernetes import client as module
from everesthood.adapters.kubernetes.client import APPLY, Client, connect, object_path
from everesthood.adapters.kubernetes.cluster import KubernetesCluster
from everesthood.adapters.kubernetes.events import Events
from everesthood.adapters.kubernetes.lease import Lease
from everesthood.adapters.kubernetes.sweeper import Sweeper
from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.domain.children import make
from everesthood.domain.conditions import Notice
from everesthood.domain.errors import Unavailable
from everesthood.domain.observed import Key, Kind, Live
from everesthood.usecases.ports.cluster import ApiError

OWNER = Live(key=Key(Kind.INSTANCE, "acme", "hello"), uid="u1", resource_version=1, generation=1)
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Server:
    """Answers in order, then for ever with the last; notes what it was asked."""

    answers: list[Any] = field(default_factory=list)
    asked: list[tuple[str, str, Any, str]] = field(default_factory=list)

    def then(self, status: int, body: Any = None, **headers: str) -> None:
        self.answers.append((status, body if body is not None else {}, headers))

    async def answer(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path_qs, body, request.headers.get("Content-Type", "")))
        status, said, headers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Callable):  # type: ignore[arg-type]
            said = said(request, body)
        raw = said if isinstance(said, bytes) else json.dumps(said).encode()
        return web.Response(status=status, body=raw, headers=headers)


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, Client]]:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.001)
    monkeypatch.setattr(module, "_LONGEST_WAIT_SECONDS", 0.002)
    server = Server()
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    settings = Configuration(host=f"http://127.0.0.1:{port}")
    settings.client_session_kwargs = {"trust_env": False}
    async with Client(ApiClient(settings), timeout_seconds=2) as client:
        yield server, client
    await runner.cleanup()


@pytest.fixture
async def wire(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Server, Client]]:
    async with serving(monkeypatch) as both:
        yield both


def refused(status: int, reason: str, message: str, **details: Any) -> tuple[int, Any]:
    return status, {"kind": "Status", "reason": reason, "message": message, "details": details}


def stored(name: str = "hello", version: int = 5, **meta: Any) -> dict[str, Any]:
    about = {"name": name, "namespace": "acme", "uid": "u1", "resourceVersion": str(version), **meta}
    return {"metadata": about, "spec": {}}


async def test_apply_says_who_and_with_what_force(wire):
    """Server-side apply names its field manager and its content type."""
    server, client = wire
    server.then(200, {"ok": 1})
    await client.apply("/a", {"x": 1}, manager="m", force=False)
    await client.apply_status("/a", {"x": 2})

    assert server.asked == [
        ("PATCH", "/a?fieldManager=m&force=false", {"x": 1}, APPLY),
        ("PATCH", f"/a/status?fieldManager={names.FIELD_MANAGER}&force=true", {"x": 2}, APPLY),
    ]


async def test_a_refusal_keeps_the_server_s_own_words(wire):
    """Status, reason, message and the fields at fault reach the caller, without a second try."""
    server, client = wire
    server.then(*refused(422, "Invalid", "bad", causes=[{"field": "spec.a", "message": "is odd"}]))
    with pytest.raises(ApiError) as caught:
        await client.get("/a")

    assert (caught.value.status, caught.value.kube_reason, caught.value.message) == (422, "Invalid", "bad")
    assert caught.value.causes == ("spec.a: is odd",)
    assert not caught.value.is_gone
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "details", "gone"),
    [
        (404, {}, True),
        (403, {"causes": [{"reason": "NamespaceTerminating", "message": "x"}]}, True),
        (403, {}, False),
    ],
)
async def test_what_goes_away_is_told_apart(wire, status, details, gone):
    """A missing object and a namespace on its way out need no answer of ours."""
    server, client = wire
    server.then(*refused(status, "R", "m", **details))
    with pytest.raises(ApiError) as caught:
        await client.get("/a")

    assert caught.value.is_gone is gone


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_overloaded_server_is_asked_again(wire, status):
    """What may be repeated is, a few times; then it is unavailable."""
    server, client = wire
    server.then(status, b"busy", **{"Retry-After": "1"})
    server.then(200, {"ok": 1})
    assert await client.get("/a") == {"ok": 1}
    server.answers = [(status, b"busy", {})]
    with pytest.raises(Unavailable) as caught:
        await client.get("/a")

    assert caught.value.reason is Reason.KUBERNETES_UNAVAILABLE
    assert len(server.asked) == 2 + 4


@pytest.mark.parametrize(("status", "tries"), [(500, 1), (429, 4)])
async def test_a_creation_is_not_repeated_blindly(wire, status, tries):
    """A POST that may have worked is not sent again; one that was turned away is."""
    server, client = wire
    server.then(status, b"")
    with pytest.raises(Unavailable):
        await client.create("/a", {"x": 1})

    assert len(server.asked) == tries


async def test_no_server_is_unavailable(monkeypatch):
    """A refused connection is ours to name, not aiohttp's."""
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.0)
    async with Client(ApiClient(Configuration(host="http://127.0.0.1:1"))) as client:
        with pytest.raises(Unavailable, match="Kubernetes cannot be reached"):
            await client.create("/a", {})


async def test_without_a_kubeconfig_there_is_a_sentence(tmp_path):
    """Neither a pod's account nor a file: one sentence says so."""
    with pytest.raises(Unavailable, match="cannot connect to Kubernetes with the pod's own account"):
        await connect("")
    with pytest.raises(Unavailable, match=r"cannot connect to Kubernetes with .*none\.conf"):
        await connect(str(tmp_path / "none.conf"))


async def test_a_kubeconfig_says_where_and_who(tmp_path):
    """The connection of a kubeconfig is handed to a library that brings its own client."""
    path = tmp_path / "k.conf"
    path.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "clusters: [{name: c, cluster: {server: 'https://example.test:6443'}}]\n"
        "users: [{name: u, user: {token: abc}}]\ncontexts: [{name: x, context: {cluster: c, user: u}}]\n"
    )
    async with await connect(str(path)) as client:
        found = await client.connection()

    assert (found.server, found.token, found.verifies) == ("https://example.test:6443", "abc", True)


async def test_deletion_is_of_that_very_object(wire):
    """The uid is a precondition; an object that is gone or was replaced is well."""
    server, client = wire
    for status in (200, 404, 409):
        server.answers = [(status, {"message": "m"}, {})]
        await client.delete("/a", uid="u")
    server.answers = [(403, {"message": "m"}, {})]
    with pytest.raises(ApiError):
        await client.delete("/a", uid="u")

    assert server.asked[0][2]["preconditions"] == {"uid": "u"}


async def test_lists_come_in_pages(wire):
    """Every page is yielded, with the version of the whole list."""
    server, client = wire
    server.then(200, {"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [1]})
    server.then(200, {"metadata": {"resourceVersion": "7"}, "items": [2]})
    pages = [p async for p in client.list_pages("/a", label_selector="x=y", page=1, metadata_only=True)]

    assert pages == [([1], "7"), ([2], "7")]
    assert server.asked[1][1] == "/a?limit=1&labelSelector=x%3Dy&continue=more"


def test_paths_are_escaped():
    """A name never becomes another path."""
    assert (
        object_path("v1", "secrets", namespace="a", name="x/../y")
        == "/api/v1/namespaces/a/secrets/x%2F..%2Fy"
    )
    assert object_path("apps/v1", "deployments") == "/apis/apps/v1/deployments"


class Notes:
    def __init__(self) -> None:
        self.wrote_: list[Live] = []

    def wrote(self, live: Live) -> None:
        self.wrote_.append(live)


def cluster(client: Client) -> tuple[KubernetesCluster, Notes]:
    notes = Notes()
    return KubernetesCluster(client, notes, Events(client, lambda: NOW)), notes  # type: ignore[arg-type]


async def test_an_apply_onto_a_known_child_names_its_uid(wire):
    """What is applied onto an object that is known can hit no other, and the answer is kept."""
    server, client = wire
    server.then(200, stored("agent-hello"))
    writes, notes = cluster(client)
    child = make(Kind.SERVICE_ACCOUNT, "agent-hello", owner=OWNER, labels={}, content={})
    await writes.apply(child, None)
    await writes.apply(child, OWNER)

    assert "uid" not in server.asked[0][2]["metadata"]
    assert server.asked[1][2]["metadata"]["uid"] == "u1"
    assert [n.key.name for n in notes.wrote_] == ["agent-hello"] * 2


async def test_the_finalizer_has_a_manager_of_its_own(wire):
    """Holding owns the finalizer and nothing else; releasing applies without it."""
    server, client = wire
    server.then(200, stored())
    writes, _ = cluster(client)
    await writes.hold(OWNER)
    await writes.release(OWNER)

    assert [names.FINALIZER_MANAGER in path for _, path, _, _ in server.asked] == [True, True]
    assert server.asked[0][2]["metadata"]["finalizers"] == [names.FINALIZER]
    assert "finalizers" not in server.asked[1][2]["metadata"]


async def test_a_finalizer_that_a_backup_restored_is_cut_out(wire):
    """One that we do not own is removed by name; an object that is gone is well."""
    server, client = wire
    server.then(200, stored(finalizers=["other", names.FINALIZER]))
    writes, _ = cluster(client)
    await writes.release(OWNER)
    server.answers = [(404, {"message": "m"}, {})]
    await writes.release(OWNER)
    server.answers = [(403, {"message": "m"}, {})]
    with pytest.raises(ApiError):
        await writes.release(OWNER)

    assert server.asked[1][2] == [
        {"op": "test", "path": "/metadata/finalizers/1", "value": names.FINALIZER},
        {"op": "remove", "path": "/metadata/finalizers/1"},
    ]


async def test_a_look_finds_or_not(wire):
    """What is not there is None; a refusal is raised."""
    server, client = wire
    writes, notes = cluster(client)
    server.then(200, stored())
    assert (await writes.look(OWNER.key)).uid == "u1"  # type: ignore[union-attr]
    server.answers = [(404, {"message": "m"}, {})]
    assert await writes.look(OWNER.key) is None
    server.answers = [(403, {"message": "m"}, {})]
    with pytest.raises(ApiError):
        await writes.look(OWNER.key)
    server.answers = [(200, stored(), {})]
    await writes.apply_status(OWNER, {"a": 1})
    await writes.delete(OWNER)
    assert len(notes.wrote_) == 1


NOTICE = Notice(type="Warning", reason=Reason.INVALID_SPEC, message="spec.a: is odd")


async def test_a_fact_is_one_event_counted_up(wire):
    """The same fact again raises the count of the same Event, also after a restart or its expiry."""
    server, client = wire
    writes, _ = cluster(client)
    server.then(201, {})
    await writes.tell(OWNER, NOTICE)
    await writes.tell(OWNER, NOTICE)
    created, counted = server.asked
    assert (created[0], created[2]["count"], created[2]["source"]["component"]) == (
        "POST", 1, names.FIELD_MANAGER,
    )  # fmt: skip
    assert (counted[0], counted[2]["count"]) == ("PATCH", 2)

    server.asked.clear()
    restarted, _ = cluster(client)
    server.answers = [(409, {"message": "exists"}, {}), (200, {"count": 7}, {}), (200, {}, {})]
    await restarted.tell(OWNER, NOTICE)
    assert server.asked[-1][2]["count"] == 8

    server.answers = [(404, {"message": "expired"}, {}), (201, {}, {})]
    await restarted.tell(OWNER, NOTICE)
    assert server.asked[-1][0] == "POST"


async def test_an_event_that_cannot_be_written_hurts_nobody(wire):
    """Reconciling never fails for want of an Event."""
    server, client = wire
    writes, _ = cluster(client)
    server.then(403, {"message": "no"})
    await writes.tell(OWNER, NOTICE)

    assert len(server.asked) == 1
    assert "/events" in server.asked[0][1]


class Time:
    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def lease(client: Client, clock: Time, identity: str = "me") -> Lease:
    return Lease(client, namespace="sys", name="ctl", identity=identity, clock=clock)


def held(by: str, renewed: str = "t1") -> dict[str, Any]:
    spec = {"holderIdentity": by, "renewTime": renewed, "leaseDurationSeconds": 15, "leaseTransitions": 1}
    return {"metadata": {"resourceVersion": "3"}, "spec": spec}


async def test_a_free_lease_is_taken(wire):
    """A lease that nobody made is created, a released one is taken with one transition more."""
    server, client = wire
    server.then(404, {"message": "m"})
    server.then(201, {})
    assert await lease(client, Time())._try()
    server.answers = [(200, held(""), {}), (200, {}, {})]
    assert await lease(client, Time())._try()

    assert server.asked[1][2]["spec"]["leaseTransitions"] == 0
    assert server.asked[3][2]["spec"]["leaseTransitions"] == 2
    assert server.asked[3][2]["metadata"]["resourceVersion"] == "3"


async def test_a_held_lease_is_taken_only_after_its_time_by_our_clock(wire):
    """However wrong the holder's clock is, its lease counts from when we last saw it move."""
    server, client = wire
    clock = Time()
    mine = lease(client, clock)
    server.then(200, held("other"))
    assert not await mine._try()
    clock.at += 14
    server.answers = [(200, held("other", "t2"), {})]
    assert not await mine._try()
    clock.at += 14
    assert not await mine._try()
    clock.at += 2
    server.answers = [(200, held("other", "t2"), {}), (200, {}, {})]

    assert await mine._try()


async def test_a_lost_race_is_no_lead(wire):
    """Two that find it free at once: the API server lets one of them write."""
    server, client = wire
    server.then(200, held(""))
    server.then(409, {"message": "conflict"})

    assert not await lease(client, Time())._try()


async def test_losing_the_lease_ends_the_lead(wire, monkeypatch):
    """A lease that another took, or that cannot be renewed in time, is lost at once."""
    server, client = wire
    monkeypatch.setattr("everesthood.adapters.kubernetes.lease.RETRY_SECONDS", 0.001)
    for answers, step in (([(200, held("other"), {})], 0.0), ([(500, b"", {})], 11.0)):
        clock = Time()
        mine = lease(client, clock)
        server.answers = [(404, {"message": "m"}, {}), (201, {}, {}), *answers]
        task = asyncio.create_task(mine.run())
        await mine.leads.wait()
        clock.at += step
        async with asyncio.timeout(5):
            await task
        assert mine.lost.is_set()


async def test_a_stop_hands_the_lease_over(wire):
    """The next leader need not wait; only a lease of ours is released."""
    server, client = wire
    mine = lease(client, Time())
    await mine.release()
    assert server.asked == []
    mine.leads.set()
    server.then(200, held("me"))
    await mine.release()
    assert server.asked[-1][2]["spec"]["holderIdentity"] == ""
    server.answers = [(200, held("other"), {})]
    await mine.release()
    assert server.asked[-1][0] == "GET"
    server.answers = [(403, {"message": "m"}, {})]
    await mine.release()


class Listed:
    def __init__(self) -> None:
        self.kinds: list[tuple[Kind, int, int]] = []
        self.spread: list[float] = []

    def listed(self, kind: Kind, items: list[Any], version: int) -> int:
        self.kinds.append((kind, len(items), version))
        return 1

    def look_at_all(self, spread_seconds: float) -> None:
        self.spread.append(spread_seconds)


async def test_a_sweep_is_a_barrier_and_then_a_comparison(wire):
    """The first sweep opens the barrier, the second closes the gap behind it; later ones look at everything."""
    server, client = wire
    items = [{"metadata": {"name": n, "uid": n, "resourceVersion": "3"}} for n in ("a", "b")]
    server.then(200, {"metadata": {"resourceVersion": "9"}, "items": items})
    seen, after = Listed(), []

    async def then() -> None:
        after.append(1)

    sweeper = Sweeper(client, seen, period_seconds=100, after=then)  # type: ignore[arg-type]
    assert not sweeper.synced.is_set()
    await sweeper.sweep()

    assert sweeper.synced.is_set()
    assert [k for k, _, _ in seen.kinds] == list(Kind)
    assert {rest for _, *rest in ((k, (n, v)) for k, n, v in seen.kinds) for rest in rest} == {(2, 9)}
    assert seen.spread == []
    await sweeper.sweep()
    assert seen.spread == []
    await sweeper.sweep()
    assert (seen.spread, after) == ([10.0], [1, 1, 1])
    assert sweeper.complaint() is None
    sweeper._last -= 301  # type: ignore[operator]
    assert "is 301 s old" in (sweeper.complaint() or "")


async def test_a_sweep_holds_no_more_than_a_page_of_whole_objects(wire):
    """What a page brings is trimmed before the next one is asked for, so a restart takes little memory."""
    server, client = wire
    noise = {"f:spec": {"f:replicas": {}}}
    pages = [
        {
            "metadata": {"resourceVersion": "9", **more},
            "items": [{"metadata": {"name": n, "uid": n, "resourceVersion": "3", "managedFields": [noise]}}],
        }
        for n, more in (("a", {"continue": "next"}), ("b", {}))
    ]
    for page in (*pages, {"metadata": {"resourceVersion": "9"}}):
        server.then(200, page)
    taken: list[Any] = []

    class Kept(Listed):
        def listed(self, kind: Kind, items: list[Any], version: int) -> int:
            taken.extend(items)
            return 0

    await Sweeper(client, Kept(), period_seconds=100, after=_nothing).sweep()  # type: ignore[arg-type]

    assert [(type(live), live.uid) for live in taken] == [(Live, "a"), (Live, "b")]
    assert all("limit=100" in path for _, path, _, _ in server.asked)


async def _nothing() -> None:
    return None


async def test_sweeping_goes_on_after_failures(wire, monkeypatch):
    """An API server that is away delays a comparison, and no more."""
    server, client = wire
    monkeypatch.setattr("everesthood.adapters.kubernetes.sweeper._FIRST_RETRY_SECONDS", 0.001)
    server.then(403, {"message": "not yet"})
    server.then(200, {"metadata": {"resourceVersion": "9"}})

    async def then() -> None:
        return None

    sweeper = Sweeper(client, Listed(), period_seconds=100, after=then)  # type: ignore[arg-type]
    task = asyncio.create_task(sweeper.run())
    async with asyncio.timeout(5):
        await sweeper.synced.wait()
    task.cancel()

    assert len(server.asked) >= 2
