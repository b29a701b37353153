"""The webhook: verdicts over the wire, deletions in use, and a body that nobody should send."""

import copy
import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.manifests import CREDENTIAL, INSTANCE, TEMPLATE, instance, template

from everesthood.adapters.languages import Languages
from everesthood.domain import manifests
from everesthood.domain.errors import Problem, Unavailable
from everesthood.domain.manifests import Verdict
from everesthood.entrypoints.admission import reviews
from everesthood.entrypoints.admission.app import MAX_BODY, App
from everesthood.usecases.review_manifest import Review, review_manifest

LANGUAGES = Languages()


class Cluster:
    """A lookup over objects in memory."""

    def __init__(self, *documents, users=()):
        read = [manifests.read(document, LANGUAGES) for document in documents]
        self.specs = {(m.kind, m.name): m.content.spec for m in read}
        self.users = list(users)
        self.reads = 0

    async def template(self, _namespace, name):
        self.reads += 1
        return self.specs.get(("AgentTemplate", name))

    async def credentials(self, _namespace, names):
        self.reads += 1
        found = {name: self.specs.get(("AgentCredential", name)) for name in names}
        return {name: spec for name, spec in found.items() if spec}

    async def users_of_template(self, _namespace, _name):
        self.reads += 1
        return self.users


def asked(operation, new=None, old=None, **over):
    shown = new or old
    fields = {
        "operation": operation, "kind": shown["kind"], "namespace": "acme",
        "name": shown["metadata"]["name"], "new": new, "old": old,
    }  # fmt: skip
    return Review(**(fields | over))


async def judge(review, cluster=None):
    return await review_manifest(
        review, lookup=cluster or Cluster(), languages=LANGUAGES, internal_hosts=frozenset()
    )


async def test_a_good_object_passes():
    """A template, a credential and an instance that fit are let through."""
    around = Cluster(TEMPLATE, CREDENTIAL)
    for document in (TEMPLATE, CREDENTIAL, INSTANCE):
        assert await judge(asked("CREATE", document), around) == Verdict()


async def test_a_bad_object_is_refused_by_the_same_rules():
    """The webhook gives the sentence that `everesthood validate` gives."""
    verdict = await judge(asked("CREATE", instance(plan="gold")), Cluster(TEMPLATE, CREDENTIAL))
    assert verdict.problems == (Problem("spec.plan", "template summary has no plan gold; it has free"),)


async def test_what_is_missing_is_only_warned_of():
    """An instance may come before its template."""
    verdict = await judge(asked("CREATE", INSTANCE))
    assert verdict.problems == ()
    assert len(verdict.warnings) == 2


async def test_an_update_that_leaves_the_spec_alone_always_passes():
    """Labels, finalizers and the deletion of an object that newer rules refuse are never blocked."""
    bad = template(displayName=7)
    touched = copy.deepcopy(bad)
    touched["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": []}
    cluster = Cluster()

    assert await judge(asked("UPDATE", touched, bad), cluster) == Verdict()
    assert cluster.reads == 0
    assert (await judge(asked("UPDATE", bad, TEMPLATE))).problems


async def test_a_template_in_use_is_not_deleted():
    """The refusal names up to five users and counts the rest."""
    few = await judge(asked("DELETE", old=TEMPLATE), Cluster(users=["b", "a"]))
    many = await judge(asked("DELETE", old=TEMPLATE), Cluster(users=[f"i{n}" for n in range(8)]))

    assert few.problems[0].message == ("template summary is used by a, b; delete those AgentInstances first")
    assert "i0, i1, i2, i3, i4 and 3 more;" in many.problems[0].message


async def test_what_nobody_uses_is_deleted():
    """Templates without users, and all instances and credentials, can go."""
    for document in (TEMPLATE, INSTANCE, CREDENTIAL):
        assert await judge(asked("DELETE", old=document)) == Verdict()


def message(**over):
    request = {
        "uid": "u-1", "kind": {"group": "g", "version": "v", "kind": "AgentTemplate"},
        "operation": "CREATE", "namespace": "acme", "name": "summary", "object": TEMPLATE,
        "oldObject": None, "userInfo": {"username": "ann"},
    }  # fmt: skip
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | over}


async def call(app, body=b"", *, method="POST", path="/validate", parts=None):
    waiting = [{"type": "http.request", "body": p, "more_body": True} for p in (parts or [body])]
    waiting[-1]["more_body"] = False
    sent = []

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(event):
        sent.append(event)

    await app({"type": "http", "method": method, "path": path}, receive, send)
    return sent[0]["status"], b"".join(e.get("body", b"") for e in sent[1:])


def app_saying(verdict=None, error=None):
    async def review(_review):
        if error:
            raise error
        return verdict or Verdict()

    return App(review)


async def test_a_verdict_travels_as_an_admission_review():
    """The API server gets uid, verdict, warnings, and problems as message and causes."""
    verdict = Verdict(problems=(Problem("spec.a", "is wrong"),) * 12, warnings=("look here",))
    status, body = await call(app_saying(verdict), json.dumps(message()).encode())
    response = json.loads(body)["response"]

    assert status == 200
    assert (response["uid"], response["allowed"]) == ("u-1", False)
    assert response["warnings"] == ["look here"]
    assert response["status"]["code"] == 422
    assert response["status"]["message"].startswith("spec.a: is wrong; spec.a: is wrong")
    assert response["status"]["message"].endswith("; and 2 more")
    assert len(response["status"]["details"]["causes"]) == 12


async def test_an_object_in_use_is_forbidden_to_delete():
    """A deletion that is refused is not told as an invalid object."""

    async def review(asked_for):
        return await judge(asked_for, Cluster(users=["a"]))

    deletion = message(operation="DELETE", object=None, oldObject=TEMPLATE)
    _, body = await call(App(review), json.dumps(deletion).encode())
    status = json.loads(body)["response"]["status"]
    assert (status["code"], status["reason"]) == (403, "Forbidden")
    assert status["message"].startswith("template summary is used by a;")


async def test_a_defect_refuses_the_write_and_the_process_lives():
    """An unexpected failure is answered with the request id, and tells nothing of its inside."""
    app = app_saying(error=RuntimeError("secret inside"))
    _, body = await call(app, json.dumps(message()).encode())
    response = json.loads(body)["response"]

    assert response["allowed"] is False
    assert response["status"]["message"] == "internal error, request id u-1"
    assert (await call(app, method="GET", path="/healthz"))[0] == 200


async def test_a_cluster_that_cannot_be_asked_refuses_for_now():
    """Without its lookups the webhook lets nothing pass and says that it is for now."""
    app = app_saying(error=Unavailable("Kubernetes cannot be reached"))
    _, body = await call(app, json.dumps(message()).encode())
    status = json.loads(body)["response"]["status"]
    assert status["code"] == 503
    assert "try again: Kubernetes cannot be reached" in status["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200), ("GET", "/readyz", 200), ("HEAD", "/readyz", 200),
        ("GET", "/validate", 405), ("POST", "/healthz", 405), ("GET", "/", 404), ("POST", "/x", 404),
    ],
)  # fmt: skip
async def test_there_are_three_routes(method, path, status):
    """Everything else is not found or not allowed."""
    assert (await call(app_saying(), method=method, path=path))[0] == status


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{" * 100_000, b"[" * 100_000, b'{"request": {}}',
        json.dumps(message(operation="CONNECT")).encode(), json.dumps(message(uid=5)).encode(),
        json.dumps(message(object=[])).encode(),
        json.dumps(message() | {"apiVersion": "admission.k8s.io/v1beta1"}).encode(),
    ],
)  # fmt: skip
async def test_bytes_that_are_no_review_are_a_bad_request(body):
    """Hostile bytes get a sentence."""
    status, text = await call(app_saying(), body)
    assert status == 400
    assert text.strip()


async def test_a_body_over_the_cap_is_refused_while_it_arrives():
    """A body of more than 3 MiB is not even collected."""
    part = b"x" * (MAX_BODY // 2 + 1)
    status, text = await call(app_saying(), parts=[part, part, part])
    assert status == 413
    assert b"larger than" in text


async def test_a_caller_that_goes_away_is_no_news():
    """A request that ends half-way is dropped."""
    sent = []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(event):
        sent.append(event)

    await app_saying()({"type": "http", "method": "POST", "path": "/validate"}, receive, send)
    assert sent[0]["status"] == 400


async def test_other_protocols_are_ignored():
    """Only HTTP is spoken."""
    assert await app_saying()({"type": "lifespan"}, None, None) is None


WILD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100)
@given(
    st.sampled_from(["CREATE", "UPDATE", "DELETE"]),
    st.none() | st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec"]), WILD),
)
def test_no_object_breaks_the_webhook(operation, document):
    """Whatever object comes, the answer is a verdict."""
    body = msgspec.json.encode(message(operation=operation, object=document))
    uid, review = reviews.read(body)
    if review.new is None:
        return
    manifest = manifests.read(review.new, LANGUAGES)
    verdict = manifests.judge(manifest, manifests.Surroundings(), LANGUAGES)
    assert json.loads(reviews.answer(uid, verdict))["response"]["allowed"] is (not verdict.problems)


def test_reading_a_review_keeps_what_rules_need():
    """The review has operation, kind, namespace, name and both objects."""
    uid, review = reviews.read(json.dumps(message(oldObject=TEMPLATE)).encode())
    assert uid == "u-1"
    assert (review.kind, review.namespace, review.name) == ("AgentTemplate", "acme", "summary")
    assert review.old == TEMPLATE
