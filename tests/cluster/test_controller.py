"""The controller on a real control plane, with the record in memory and pods that are ready by decree."""

import asyncio
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.support.controller import (
    HUGE,
    Running,
    apply,
    condition,
    eventually,
    get,
    instance,
    path_to,
    play_kubelet,
    running,
    settings_for,
    template,
)
from tests.support.record import wish

from everesthood.adapters.kubernetes.client import MERGE_PATCH, Client, connect, object_path
from everesthood.adapters.memory.gateway import MemoryGateway
from everesthood.adapters.memory.record import RunRow
from everesthood.apis import names
from everesthood.domain.errors import Unavailable
from everesthood.domain.runs import RunState
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.record import WorkerSeat

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(180),
    # The API server is killed under open connections here; what is left of those is found by a later test.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def person(kubeconfig: str) -> AsyncIterator[Client]:
    async with await connect(kubeconfig) as client:
        yield client


@pytest.fixture
async def namespace(person: Client) -> AsyncIterator[str]:
    name = f"org-{uuid.uuid4().hex[:8]}"
    await person.create("/api/v1/namespaces", {"metadata": {"name": name}})
    yield name
    # No controller may be left to let the instances go.
    for left in (await person.get(object_path(names.API_VERSION, "agentinstances", namespace=name)))["items"]:
        with suppress(ApiError):
            body = {"metadata": {"finalizers": None}}
            await person.request("PATCH", path_to(left), body=body, content_type=MERGE_PATCH)
    await person.request("DELETE", f"/api/v1/namespaces/{name}", body={})


@pytest.fixture
async def kubelet(person: Client) -> AsyncIterator[None]:
    task = asyncio.create_task(play_kubelet(person))
    yield
    task.cancel()


@pytest.fixture
async def at_work(kubeconfig: str, kubelet: None, namespace: str) -> AsyncIterator[Running]:
    async with running(settings_for(kubeconfig)) as controller:
        yield controller


def child(namespace: str, api_version: str, plural: str, name: str) -> str:
    return object_path(api_version, plural, namespace=namespace, name=name)


async def children(client: Client, namespace: str) -> dict[str, list[dict]]:
    found = {}
    for api_version, plural in (
        ("v1", "serviceaccounts"),
        ("networking.k8s.io/v1", "networkpolicies"),
        ("apps/v1", "deployments"),
        ("policy/v1", "poddisruptionbudgets"),
    ):
        path = object_path(api_version, plural, namespace=namespace)
        answer = await client.get(
            path, query={"labelSelector": f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}"}
        )
        found[plural] = answer["items"]
    return found


async def ready(client: Client, body: dict, *, revision: str = "") -> dict:
    async def look() -> dict | None:
        found = await get(client, path_to(body))
        good = condition(found, "Ready").get("status") == "True"
        current = ((found or {}).get("status") or {}).get("revision", {}).get("current", "")
        settled = not condition(found, "Reconciling")
        return found if good and settled and (not revision or current == revision) else None

    return await eventually(look)


async def revision_of(client: Client, body: dict, *, other_than: str = "") -> str:
    """Return the revision of a template once its newest content has been judged."""

    async def look() -> str | None:
        found = await get(client, path_to(body)) or {}
        seen = found.get("status") or {}
        if seen.get("observedGeneration") != found["metadata"]["generation"]:
            return None
        return seen["revision"] if seen.get("revision") != other_than else None

    return await eventually(look)


async def test_an_applied_instance_becomes_ready_with_all_it_needs(
    at_work: Running, person: Client, namespace: str
):
    """Apply a template and an instance, and everything that the instance needs exists and is restricted."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace, workers={"replicas": 2})
    await apply(person, agent, hello)
    found = await ready(person, hello)
    made = await children(person, namespace)

    assert {kind: len(items) for kind, items in made.items()} == {
        "serviceaccounts": 1, "networkpolicies": 1, "deployments": 1, "poddisruptionbudgets": 1,
    }  # fmt: skip
    assert found["status"]["workers"]["available"] == 2
    assert found["status"]["revision"]["current"] == found["status"]["revision"]["lastGood"]
    types = [c["type"] for c in found["status"]["conditions"]]
    assert types == [
        "Accepted", "TemplateResolved", "CredentialsReady", "QueueReady", "WorkersAvailable", "Ready",
    ]  # fmt: skip
    for items in made.values():
        assert items[0]["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
        assert [m["manager"] for m in items[0]["metadata"]["managedFields"] if m["operation"] == "Apply"] == [
            names.FIELD_MANAGER
        ]


async def test_a_second_apply_changes_nothing(at_work: Running, person: Client, namespace: str):
    """Whoever applies the same manifest again, as GitOps does, sees the same resourceVersion."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    first = await ready(person, hello)
    await at_work.at_rest(namespace)
    before = [await get(person, path_to(agent)), await get(person, path_to(hello))]
    again = await apply(person, agent, hello)

    assert [a["metadata"]["resourceVersion"] for a in again] == [
        b["metadata"]["resourceVersion"] for b in before if b
    ]
    assert first["spec"] == again[1]["spec"]
    assert set(again[1]["metadata"].get("annotations") or {}) == set()
    assert set(again[1]["metadata"].get("labels") or {}) == set()


async def test_a_strange_deployment_is_not_taken_over(at_work: Running, person: Client, namespace: str):
    """A Deployment of somebody else under the name of a worker, even with its selector, is left alone."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent)
    revision = await revision_of(person, agent)
    path = child(namespace, "apps/v1", "deployments", f"agent-hello-{revision[:10]}")
    labels = {names.LABEL_INSTANCE: "hello", names.LABEL_REVISION: revision}
    theirs = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": path.rpartition("/")[2], "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "theirs", "image": "example.test/theirs:1"}]},
            },
        },
    }
    before = await person.create(path.rpartition("/")[0], theirs)
    await apply(person, hello)

    async def told() -> bool:
        return condition(await get(person, path_to(hello)), "WorkersAvailable").get("reason") == "Conflict"

    await eventually(told)
    after = await get(person, path) or {}
    assert after["spec"] == before["spec"]
    assert "ownerReferences" not in after["metadata"]


async def test_at_rest_nothing_is_written(at_work: Running, person: Client, namespace: str):
    """Looking at everything again, and comparing everything, writes nothing when nothing changed."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace, workers={"replicas": 2})
    await apply(person, agent, hello)
    await ready(person, hello)
    await at_work.at_rest(namespace)
    at_work.client.writes.clear()
    await at_work.controller.sweeper.sweep()
    at_work.controller.watching.look_at_all(0.0)
    await at_work.at_rest(namespace)

    assert at_work.writes(namespace) == []


async def test_a_restart_writes_nothing(kubeconfig: str, kubelet: None, person: Client, namespace: str):
    """A controller that comes back to a cluster in order leaves it alone, odd quantities included."""
    resources = {"cpu": "0.05", "memory": "0.25Gi", "cpuLimit": "1000m"}
    agent = template(
        namespace=namespace, worker={"resources": resources, "env": [{"name": "A", "value": ""}]}
    )
    hello = instance(namespace=namespace)
    async with running(settings_for(kubeconfig)) as first:
        await apply(person, agent, hello)
        await ready(person, hello)
        await first.at_rest(namespace)
    async with running(settings_for(kubeconfig), first.record) as second:
        await second.at_rest(namespace)

        assert second.writes(namespace) == []


async def test_deletion_leaves_nothing_behind(at_work: Running, person: Client, namespace: str):
    """Delete an instance: its children go, and the record learns of it."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    found = await ready(person, hello)
    await person.delete(path_to(hello), uid=found["metadata"]["uid"])

    async def nothing() -> bool:
        left = await children(person, namespace)
        return not any(left.values()) and await get(person, path_to(hello)) is None

    await eventually(nothing)
    assert at_work.record.instances[found["metadata"]["uid"]].deleted


@pytest.mark.parametrize(
    ("api_version", "plural", "patch"),
    [
        ("v1", "serviceaccounts", {"automountServiceAccountToken": True}),
        ("networking.k8s.io/v1", "networkpolicies", {"spec": {"egress": [{}]}}),
        ("policy/v1", "poddisruptionbudgets", {"spec": {"maxUnavailable": 5}}),
        ("apps/v1", "deployments", {"spec": {"replicas": 7}}),
        ("apps/v1", "deployments", {"metadata": {"labels": {names.LABEL_MANAGED_BY: None}}}),
    ],
)
async def test_an_edited_child_is_restored(
    at_work: Running, person: Client, namespace: str, api_version: str, plural: str, patch: dict
):
    """Whatever a person changes on a child that the controller asked for is changed back."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace, workers={"replicas": 2})
    await apply(person, agent, hello)
    await ready(person, hello)
    await at_work.at_rest(namespace)
    before = (await children(person, namespace))[plural][0]
    path = child(namespace, api_version, plural, before["metadata"]["name"])
    await person.request("PATCH", path, body=patch, content_type=MERGE_PATCH)

    async def restored() -> bool:
        now = (await children(person, namespace))[plural]
        if not now or now[0]["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]:
            return False
        return all(now[0].get(k) == before.get(k) for k in ("spec", "automountServiceAccountToken"))

    await eventually(restored)


@pytest.mark.parametrize(
    ("api_version", "plural"),
    [
        ("v1", "serviceaccounts"),
        ("networking.k8s.io/v1", "networkpolicies"),
        ("apps/v1", "deployments"),
        ("policy/v1", "poddisruptionbudgets"),
    ],
)
async def test_a_deleted_child_comes_back(
    at_work: Running, person: Client, namespace: str, api_version: str, plural: str
):
    """Whatever child a person deletes is made again."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace, workers={"replicas": 2})
    await apply(person, agent, hello)
    await ready(person, hello)
    before = (await children(person, namespace))[plural][0]["metadata"]
    await person.delete(child(namespace, api_version, plural, before["name"]), uid=before["uid"])

    async def back() -> bool:
        now = (await children(person, namespace))[plural]
        return bool(now) and now[0]["metadata"]["uid"] != before["uid"]

    await eventually(back)


async def test_a_foreign_object_is_left_alone(at_work: Running, person: Client, namespace: str):
    """An object that has a child's name but is somebody's stays as it is, and the instance says so."""
    theirs = {"metadata": {"name": "agent-hello", "labels": {"team": "red"}}}
    await person.create(object_path("v1", "serviceaccounts", namespace=namespace), theirs)
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)

    async def conflict() -> dict:
        seen = condition(await get(person, path_to(hello)), "WorkersAvailable")
        return seen if seen.get("reason") == "Conflict" else {}

    seen = await eventually(conflict)
    left = await get(person, child(namespace, "v1", "serviceaccounts", "agent-hello"))
    assert "ServiceAccount agent-hello exists and is not Everesthood's" in seen["message"]
    assert left is not None
    assert left["metadata"]["labels"] == {"team": "red"}
    assert "ownerReferences" not in left["metadata"]


@pytest.mark.parametrize("selector", ["of its own", "of ours"])
async def test_a_foreign_deployment_is_left_alone(
    at_work: Running, person: Client, namespace: str, selector: str
):
    """A Deployment made beforehand under a worker's name is not adopted, even with the worker's own labels."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent)
    revision = await revision_of(person, agent)
    name = f"agent-hello-{revision[:10]}"
    ours = {names.LABEL_INSTANCE: "hello", names.LABEL_REVISION: revision}
    labels = ours if selector == "of ours" else {"team": "red"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    theirs = {"replicas": 0, "selector": {"matchLabels": labels}, "template": pod}
    path = object_path("apps/v1", "deployments", namespace=namespace)
    before = await person.create(path, {"metadata": {"name": name}, "spec": theirs})
    await apply(person, hello)

    async def conflict() -> dict:
        seen = condition(await get(person, path_to(hello)), "WorkersAvailable")
        return seen if seen.get("reason") == "Conflict" else {}

    await eventually(conflict)
    after = await person.get(f"{path}/{name}")
    assert (after["spec"], "ownerReferences" in after["metadata"]) == (before["spec"], False)


async def test_a_new_revision_takes_over_and_the_old_one_drains(
    at_work: Running, person: Client, namespace: str
):
    """A changed template rolls out; the old workers stay for as long as a run is open on them."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    old = (await ready(person, hello))["status"]["revision"]["current"]
    uid = (await get(person, path_to(hello)) or {})["metadata"]["uid"]
    with open_run(at_work, uid, old):
        await apply(person, template(namespace=namespace, description="Now with manners."))
        new = await revision_of(person, agent, other_than=old)
        await ready(person, hello, revision=new)
        await asyncio.sleep(2)  # longer than the grace period: only the open run holds the old workers
        both = (await children(person, namespace))["deployments"]

        assert {d["metadata"]["labels"][names.LABEL_REVISION] for d in both} == {old, new}
        assert at_work.record.instances[uid].published.current_revision == new

    async def drained() -> bool:
        left = (await children(person, namespace))["deployments"]
        return [d["metadata"]["labels"][names.LABEL_REVISION] for d in left] == [new]

    await eventually(drained)
    events = await person.get(object_path("v1", "events", namespace=namespace))
    reasons = {e["reason"] for e in events["items"] if e["involvedObject"]["kind"] == "AgentInstance"}
    assert {"RolledOut", "Drained", "Ready"} <= reasons


class open_run:  # noqa: N801 - reads as a sentence
    """A run of the old revision that is not over while the block runs."""

    def __init__(self, at_work: Running, uid: str, revision: str) -> None:
        self._record, self._uid, self._revision = at_work.record, uid, revision

    def __enter__(self) -> None:
        class Request:
            instance_uid = self._uid
            id = "run"

        class Row:
            request, revision, state = Request, self._revision, RunState.RUNNING

        self._record.rows["run"] = Row  # type: ignore[index,assignment]

    def __exit__(self, *_: object) -> None:
        del self._record.rows["run"]  # type: ignore[arg-type]


async def test_a_bad_revision_never_stops_a_good_one(at_work: Running, person: Client, namespace: str):
    """Workers that do not come up, or a template that is invalid, leave the last good revision serving."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    good = (await ready(person, hello))["status"]["revision"]["current"]
    await apply(person, template(namespace=namespace, worker={"resources": HUGE}))

    async def stalled() -> dict | None:
        seen = await get(person, path_to(hello))
        return seen if condition(seen, "Stalled").get("reason") == "RolloutFailed" else None

    seen = await eventually(stalled)
    assert seen["status"]["revision"]["current"] == good
    assert condition(seen, "Ready")["status"] == "True"
    assert f"revision {good} keeps running" in condition(seen, "Stalled")["message"]

    invalid = template(namespace=namespace, steps=[{"name": "a", "transform": {"value": "steps.nobody"}}])
    await apply(person, invalid)

    async def refused() -> dict | None:
        seen = await get(person, path_to(hello))
        return seen if condition(seen, "TemplateResolved").get("reason") == "TemplateInvalid" else None

    seen = await eventually(refused)
    assert seen["status"]["revision"]["current"] == good
    assert f"Revision {good} keeps running" in condition(seen, "Stalled")["message"]

    async def only_good() -> bool:
        left = (await children(person, namespace))["deployments"]
        return [d["metadata"]["labels"][names.LABEL_REVISION] for d in left] == [good]

    await eventually(only_good)
    await apply(person, template(namespace=namespace, description="Mended."))
    mended = await revision_of(person, agent, other_than=good)
    await ready(person, hello, revision=mended)


async def test_a_pinned_instance_stays_where_it_is(at_work: Running, person: Client, namespace: str):
    """updatePolicy Manual keeps a revision through a template's changes; an unknown one is named."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    old = (await ready(person, hello))["status"]["revision"]["current"]
    await apply(person, instance(namespace=namespace, updatePolicy="Manual", revision=old))
    await apply(person, template(namespace=namespace, description="Newer."))
    await revision_of(person, agent, other_than=old)
    await at_work.at_rest(namespace)

    assert (await get(person, path_to(hello)) or {})["status"]["revision"]["desired"] == old

    await apply(person, instance(namespace=namespace, updatePolicy="Manual", revision="f" * 16))

    async def missing() -> bool:
        seen = condition(await get(person, path_to(hello)), "TemplateResolved")
        return seen.get("reason") == "RevisionNotFound"

    await eventually(missing)


async def test_config_reaches_workers(at_work: Running, person: Client, namespace: str):
    """A change of config replaces worker pods; config that breaks the schema is refused with its path."""
    schema = {"type": "object", "properties": {"tone": {"type": "string"}}}
    agent = template(namespace=namespace, configSchema=schema)
    await apply(person, agent, instance(namespace=namespace, config={"tone": "warm"}))
    await ready(person, instance(namespace=namespace))
    before = (await children(person, namespace))["deployments"][0]
    await apply(person, instance(namespace=namespace, config={"tone": "cool"}))

    async def rolled() -> bool:
        now = (await children(person, namespace))["deployments"][0]
        return now["spec"]["template"] != before["spec"]["template"]

    await eventually(rolled)
    await apply(person, instance(namespace=namespace, config={"tone": 3}))

    async def refused() -> dict:
        seen = condition(await get(person, path_to(instance(namespace=namespace))), "Accepted")
        return seen if seen.get("reason") == "ConfigInvalid" else {}

    assert "spec.config.tone" in (await eventually(refused))["message"]


async def test_a_missing_template_is_picked_up_when_it_comes(
    at_work: Running, person: Client, namespace: str
):
    """GitOps applies in any order: an instance waits for its template and says so."""
    hello = instance(namespace=namespace)
    await apply(person, hello)

    async def waiting() -> bool:
        return condition(await get(person, path_to(hello)), "Ready").get("reason") == "TemplateNotFound"

    await eventually(waiting)
    await apply(person, template(namespace=namespace))
    await ready(person, hello)


async def test_an_unreachable_record_stops_no_children(at_work: Running, person: Client, namespace: str):
    """While PostgreSQL is away children are still cared for, and QueueReady says why it is unknown."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    await ready(person, hello)
    at_work.record.down = True
    at_work.controller.publisher.doubt()
    await apply(person, instance(namespace=namespace, workers={"replicas": 2}))

    async def unknown() -> bool:
        seen = condition(await get(person, path_to(hello)), "QueueReady")
        return seen.get("reason") == "RecordUnavailable"

    await eventually(unknown)
    assert (await children(person, namespace))["deployments"][0]["spec"]["replicas"] == 2
    at_work.record.down = False
    await ready(person, hello)


async def test_a_stuck_deletion_can_be_forced(at_work: Running, person: Client, namespace: str):
    """A deletion waits for the record, unless a person says that it need not."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    found = await ready(person, hello)
    at_work.record.down = True
    await person.delete(path_to(hello), uid=found["metadata"]["uid"])
    await asyncio.sleep(1)

    assert await get(person, path_to(hello)) is not None

    patch = {"metadata": {"annotations": {names.ANNOTATION_SKIP_CLEANUP: "true"}}}
    await person.request("PATCH", path_to(hello), body=patch, content_type=MERGE_PATCH)

    async def gone() -> bool:
        return await get(person, path_to(hello)) is None

    await eventually(gone)
    at_work.record.down = False


async def test_an_instance_that_comes_back_at_once_gets_children_of_its_own(
    at_work: Running, person: Client, namespace: str
):
    """Delete and apply again in one breath: the new instance ends up with new children, Ready."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    first = await ready(person, hello)
    await person.delete(path_to(hello), uid=first["metadata"]["uid"])

    async def gone() -> bool:
        return await get(person, path_to(hello)) is None

    await eventually(gone, pause=0.01)
    await apply(person, hello)
    second = await ready(person, hello)
    for items in (await children(person, namespace)).values():
        for item in items:
            assert item["metadata"]["ownerReferences"][0]["uid"] == second["metadata"]["uid"]


async def test_a_storm_of_edits_costs_a_handful_of_passes(at_work: Running, person: Client, namespace: str):
    """500 edits of one instance lead to at most five passes, and the last edit wins."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    await ready(person, hello)
    await asyncio.sleep(5.5)  # what happened before has cooled down

    async def edit(number: int) -> None:
        body = {"spec": {"displayName": f"Name {number}"}}
        await person.request("PATCH", path_to(hello), body=body, content_type=MERGE_PATCH)

    statuses = f"{path_to(hello)}/status"
    at_work.client.writes.clear()
    for number in range(500):
        await edit(number)
    last = await get(person, path_to(hello))
    await at_work.at_rest(namespace)
    passes = at_work.client.writes.count(("PATCH", statuses))
    seen = await get(person, path_to(hello))

    assert 1 <= passes <= 5
    assert seen is not None
    assert last is not None
    assert seen["status"]["observedGeneration"] == last["metadata"]["generation"]


async def test_a_killed_controller_leaves_nothing_half_done(
    kubeconfig: str, kubelet: None, person: Client, namespace: str
):
    """Kill it while it makes children: the next one finishes, and then has nothing more to write."""
    bodies = [instance(f"hello-{n}", namespace=namespace) for n in range(30)]
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.support.controller_process", kubeconfig, "doomed",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert killed.stdout is not None
    assert await killed.stdout.readline() == b"running\n"
    await apply(person, template(namespace=namespace))
    await asyncio.gather(*(apply(person, body) for body in bodies))

    async def some() -> bool:
        return len((await children(person, namespace))["networkpolicies"]) >= 5

    await eventually(some, pause=0.01)
    killed.send_signal(signal.SIGKILL)
    await killed.wait()
    done = _versions(await children(person, namespace))
    async with running(settings_for(kubeconfig, identity="heir")) as heir:
        await asyncio.gather(*(ready(person, body) for body in bodies))
        await heir.at_rest(namespace)
        made = await children(person, namespace)
        written = [
            path for _, path in heir.writes(namespace) if "/status" not in path and "/events" not in path
        ]

        assert [len(made[k]) for k in ("serviceaccounts", "networkpolicies", "deployments")] == [30, 30, 30]
        assert len(written) == len(set(written))
        assert done.items() <= _versions(made).items()
        assert not {f"{kind}/{name}" for kind, name in done} & {"/".join(p.split("/")[-2:]) for p in written}


def _versions(made: dict[str, list[dict]]) -> dict[tuple[str, str], tuple[str, str]]:
    """Return uid and version of each child of a kind that nobody but the controller writes."""
    kinds = ("serviceaccounts", "networkpolicies")
    metas = [(kind, found["metadata"]) for kind in kinds for found in made[kind]]
    return {(kind, meta["name"]): (meta["uid"], meta["resourceVersion"]) for kind, meta in metas}


async def test_a_restart_of_the_api_server_is_survived(
    cluster, at_work: Running, person: Client, namespace: str
):
    """After the API server crashed and came back, watches, lease and work go on in the same process."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    await ready(person, hello)
    await asyncio.to_thread(cluster.restart_apiserver)
    patient = await eventually(lambda: get_patiently(person, path_to(hello)))
    assert patient["metadata"]["name"] == "hello"
    await apply(person, instance(namespace=namespace, workers={"replicas": 2}))

    async def scaled() -> bool:
        found = await get_patiently(person, path_to(hello))
        return bool(found) and found["status"]["workers"]["available"] == 2

    await eventually(scaled, 60)
    assert at_work.controller.lease.leads.is_set()
    assert not at_work.controller.lease.lost.is_set()


async def get_patiently(client: Client, path: str) -> dict | None:
    with suppress(Unavailable):
        return await get(client, path)
    return None


async def test_credentials_are_followed(at_work: Running, person: Client, namespace: str):
    """A slot that is unbound, missing or refused is named; a readable credential makes it ready."""
    slots = [{"name": "key", "hosts": ["api.example.com"]}]
    agent = template(namespace=namespace, credentials=slots)
    hello = instance(namespace=namespace, credentials=[{"slot": "key", "credentialRef": {"name": "mine"}}])
    await apply(person, agent, instance(namespace=namespace))

    async def says(reason: str) -> bool:
        seen = condition(await get(person, path_to(hello)), "CredentialsReady")
        return seen.get("reason") == reason

    await eventually(lambda: says("CredentialNotBound"))
    await apply(person, hello)
    await eventually(lambda: says("CredentialNotFound"))
    credential = {
        "apiVersion": names.API_VERSION,
        "kind": "AgentCredential",
        "metadata": {"name": "mine", "namespace": namespace},
        "spec": {
            "source": {"secretRef": {"name": "s", "key": "k"}},
            "hosts": ["api.example.com"],
            "allowedInstances": ["somebody-else"],
        },
    }
    await apply(person, credential)
    await eventually(lambda: says("CredentialNotAllowed"))
    credential["spec"]["allowedInstances"] = []
    await apply(person, credential)
    await eventually(lambda: says("CredentialsReady"))
    await ready(person, hello)
    found = await get(person, path_to(credential))
    assert found is not None
    assert condition(found, "Ready")["reason"] == "CredentialVerified"
    assert found["status"]["fingerprint"] == "0123456789abcdef"
    await person.delete(path_to(credential), uid=found["metadata"]["uid"])
    await eventually(lambda: says("CredentialNotFound"))
    await at_work.at_rest(namespace)
    assert found["metadata"]["uid"] not in at_work.record.credentials


def put_runs(at_work: Running, uid: str, count: int, **state: Any) -> list[RunRow]:
    """Put runs of an instance into the record."""
    rows = []
    for _ in range(count):
        now = at_work.record.now()
        row = RunRow(request=wish(instance_uid=uid), created_at=now, due_at=now, **state)
        at_work.record.rows[row.request.id] = row
        rows.append(row)
    return rows


async def leave(at_work: Running, uid: str, revision: str, pod: str) -> None:
    """Play a worker that holds nothing: offer to leave until that is taken, then say so."""
    gateway = MemoryGateway(at_work.record)
    seat = WorkerSeat(instance_uid=uid, namespace="", instance="", revision=revision, pod=pod)
    await eventually(lambda: gateway.offer_to_leave(seat, holds=0, claims=True))
    assert await gateway.offer_to_leave(seat, holds=0, claims=False)


async def pods_of(client: Client, namespace: str, revision: str, count: int) -> list[str]:
    """Return the names of the pods of a revision once there are so many, oldest first."""

    async def look() -> list[dict] | None:
        path = object_path("v1", "pods", namespace=namespace)
        query = {"labelSelector": f"{names.LABEL_REVISION}={revision}"}
        found = [p for p in (await client.get(path, query=query))["items"] if not gone(p)]
        return (found or [{}]) if len(found) == count else None

    found = [p for p in await eventually(look) if p]
    return [p["metadata"]["name"] for p in sorted(found, key=lambda p: p["metadata"]["creationTimestamp"])]


def gone(body: dict) -> bool:
    return "deletionTimestamp" in body["metadata"]


async def test_workers_follow_the_work_and_none_is_stopped_under_a_run(
    at_work: Running, person: Client, namespace: str
):
    """Out to three, in by the names of those that hold nothing, to none, and back at a word."""
    agent = template(namespace=namespace, worker={"slots": 1})
    hello = instance(namespace=namespace, workers={"autoscaling": {"maxReplicas": 3, "idleSeconds": 5}})
    await apply(person, agent, hello)
    found = await ready(person, hello)
    uid, revision = found["metadata"]["uid"], found["status"]["revision"]["current"]
    rows = put_runs(at_work, uid, 3, state=RunState.RUNNING, revision=revision)
    # Kubernetes would take the youngest first; here the youngest two stay.
    oldest, *others = await pods_of(person, namespace, revision, 3)
    for row in rows[:2]:
        row.state = RunState.SUCCEEDED
    await leave(at_work, uid, revision, oldest)
    assert set(await pods_of(person, namespace, revision, 2)) == set(others)
    await leave(at_work, uid, revision, others[1])
    assert await pods_of(person, namespace, revision, 1) == others[:1]
    rows[2].state = RunState.SUCCEEDED
    await leave(at_work, uid, revision, others[0])
    await pods_of(person, namespace, revision, 0)

    async def quiet() -> bool:
        return at_work.record.instances[uid].published.quiet == (revision,)

    await eventually(quiet)
    await at_work.at_rest(namespace)
    seen = await ready(person, hello)
    assert (seen["status"]["workers"]["desired"], seen["status"]["workers"]["reason"]) == (0, "ScaledToZero")
    at_work.client.writes.clear()
    put_runs(at_work, uid, 1)
    at_work.record.wake(uid, revision)
    await pods_of(person, namespace, revision, 1)
    events = await person.get(object_path("v1", "events", namespace=namespace))
    assert {"ScaledOut", "ScaledIn"} <= {e["reason"] for e in events["items"]}
    assert ("DELETE", f"/api/v1/namespaces/{namespace}/pods/{oldest}") not in at_work.client.writes


async def test_an_old_revision_with_a_waiting_run_goes_to_zero_and_comes_back(
    at_work: Running, person: Client, namespace: str
):
    """An approval may take days: the revision is kept without pods, and gets one when the run goes on."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace)
    await apply(person, agent, hello)
    found = await ready(person, hello)
    uid, old = found["metadata"]["uid"], found["status"]["revision"]["current"]
    (row,) = put_runs(at_work, uid, 1, state=RunState.WAITING, revision=old)
    (pod,) = await pods_of(person, namespace, old, 1)
    await apply(person, template(namespace=namespace, description="Now with manners."))
    new = await revision_of(person, agent, other_than=old)
    await ready(person, hello, revision=new)
    await leave(at_work, uid, old, pod)
    await pods_of(person, namespace, old, 0)
    assert len(await pods_of(person, namespace, new, 1)) == 1
    kept = await person.get(object_path("apps/v1", "controllerrevisions", namespace=namespace))
    assert any(old[:10] in r["metadata"]["name"] for r in kept["items"])

    async def quiet() -> bool:
        return at_work.record.instances[uid].published.quiet == (old,)

    await eventually(quiet)
    row.state = RunState.QUEUED
    at_work.record.wake(uid, old)
    assert len(await pods_of(person, namespace, old, 1)) == 1


async def test_a_fixed_number_and_autoscaling_exclude_each_other(
    at_work: Running, person: Client, namespace: str
):
    """One replaces the other by a plain apply; the scale subresource is for the fixed number."""
    agent, hello = template(namespace=namespace), instance(namespace=namespace, workers={"replicas": 2})
    scale = f"{path_to(hello)}/scale"
    await apply(person, agent, hello)
    await ready(person, hello)
    (made,) = await apply(
        person, instance(namespace=namespace, workers={"autoscaling": {"minReplicas": 2, "maxReplicas": 4}})
    )
    assert made["spec"]["workers"] == {
        "replicas": 1,
        "autoscaling": {"minReplicas": 2, "maxReplicas": 4, "idleSeconds": 60},
    }
    with pytest.raises(ApiError, match="leave it out"):
        await person.request("PATCH", scale, body={"spec": {"replicas": 3}}, content_type=MERGE_PATCH)
    await apply(person, hello)
    await person.request("PATCH", scale, body={"spec": {"replicas": 3}}, content_type=MERGE_PATCH)

    async def scaled() -> bool:
        seen = await ready(person, hello)
        return seen["status"]["workers"]["available"] == 3

    await eventually(scaled)
