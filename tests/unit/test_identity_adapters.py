"""Who calls is what Kubernetes says, and nothing else."""

import pytest
from tests.support.reviews import FakeApiServer

from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.adapters.kubernetes.pods import KubernetesPodOwners
from everesthood.adapters.kubernetes.secret_values import KubernetesSecrets
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import EveresthoodError, Forbidden, NotFound, Unauthenticated, Unavailable
from everesthood.usecases.ports.identity import Access, Identity

WEB = ("everesthood-web",)
RUN = Access(verb="create", namespace="acme", resource="agentinstances", subresource="run", name="summarizer")
ADA = Identity(username="ada", groups=("staff",), uid="u-1", extra={"scopes": ("a", "b")})


@pytest.fixture
def server():
    return FakeApiServer()


async def test_a_token_for_our_audience_tells_who_holds_it(server):
    """The caller is the user of the review, with groups, uid and extra."""
    server.know("t", "ada", *WEB, groups=["staff"], uid="u-1", extra={"scopes": ["a", "b"]})

    assert await KubernetesIdentities(server).authenticate("t", WEB) == ADA


@pytest.mark.parametrize(
    ("token", "audiences"),
    [
        ("unknown", WEB),
        ("unknown", ()),
        ("", WEB),
        ("x" * 20_000, WEB),
        ("of-the-gateway", WEB),
        ("of-the-gateway", ()),
        ("of-the-server", WEB),
        ("of-nobody", WEB),
        ("anonymous", WEB),
    ],
)
async def test_no_other_token_lets_anybody_in(server, token, audiences):
    """Unknown, oversized, made for another audience, or naming nobody: refused."""
    server.know("of-the-gateway", "worker", "everesthood-gateway")
    server.know("of-the-server", "ada")
    server.know("of-nobody", "", *WEB)
    server.know("anonymous", "system:anonymous", *WEB)

    with pytest.raises(Unauthenticated):
        await KubernetesIdentities(server).authenticate(token, audiences)


async def test_a_server_that_ignores_audiences_proves_nothing(server):
    """`authenticated` alone is not enough: the answer must name our audience."""
    server.ignores_audiences = True
    server.know("t", "ada", "somebody-else")

    with pytest.raises(Unauthenticated):
        await KubernetesIdentities(server).authenticate("t", WEB)


async def test_rbac_is_asked_the_whole_question(server):
    """User, groups, uid and extra travel along, since any of them may carry the permission."""
    server.grant("ada", "acme", "create run", name="summarizer")
    identities = KubernetesIdentities(server)

    assert await identities.allows(ADA, RUN)
    spec = server.asked[-1]["spec"]
    assert (spec["user"], spec["groups"], spec["uid"], spec["extra"]) == (
        "ada", ["staff"], "u-1", {"scopes": ["a", "b"]},
    )  # fmt: skip


@pytest.mark.parametrize(
    "status", [{}, {"allowed": False}, {"allowed": True, "denied": True}, {"allowed": "true"}, None]
)
async def test_anything_but_a_clear_yes_is_a_no(status):
    """A denial wins over a permission, and a strange answer is no permission."""

    class Server:
        async def request(self, *_: object, **__: object) -> dict[str, object]:
            return {"status": status}

    assert not await KubernetesIdentities(Server()).allows(ADA, RUN)


async def test_a_server_that_is_away_lets_nobody_in(server):
    """A failed question is neither yes nor no: the caller is told to come back."""
    server.down = True
    identities = KubernetesIdentities(server)

    for asking in (identities.authenticate("t", WEB), identities.allows(ADA, RUN)):
        with pytest.raises(Unavailable) as caught:
            await asking
        assert caught.value.reason is Reason.KUBERNETES_UNAVAILABLE


async def test_our_own_missing_rights_are_not_the_callers_fault(server):
    """When our account may not create reviews, the answer is 503, not 401."""
    server.forbidden = {"/apis/authentication.k8s.io"}

    with pytest.raises(Unavailable, match="TokenReview"):
        await KubernetesIdentities(server).authenticate("t", WEB)


def chain(server, **changes):
    """Put a pod, its ReplicaSet and its Deployment there."""

    def owned(kind, version, name, uid):
        return [{"kind": kind, "apiVersion": version, "name": name, "uid": uid, "controller": True}]

    pod = {
        "name": "p",
        "namespace": "acme",
        "uid": "p-1",
        "ownerReferences": owned("ReplicaSet", "apps/v1", "r", "r-1"),
    }
    replica = {
        "name": "r",
        "namespace": "acme",
        "uid": "r-1",
        "ownerReferences": owned("Deployment", "apps/v1", "d", "d-1"),
    }
    deployment = {
        "name": "d", "namespace": "acme", "uid": "d-1", "labels": {"agents.everesthood.io/revision": "abc"},
        "ownerReferences": owned("AgentInstance", "agents.everesthood.io/v1alpha1", "i", "i-1"),
    }  # fmt: skip
    for metadata, one in ((pod, "pod"), (replica, "replica"), (deployment, "deployment")):
        metadata.update(changes.get(one, {}))
    root = "/apis/apps/v1/namespaces/acme"
    server.objects |= {
        "/api/v1/namespaces/acme/pods/p": {
            "metadata": pod,
            "status": {"phase": changes.get("phase", "Running")},
        },
        f"{root}/replicasets/r": {"metadata": replica},
        f"{root}/deployments/d": {"metadata": deployment},
    }


async def test_a_pods_owners_lead_to_its_instance(server):
    """The seat of a worker is what the owner chain says."""
    chain(server)

    assert await KubernetesPodOwners(server).seat("acme", "p", "p-1") == ("i-1", "abc")


async def test_who_owns_a_pods_owner_is_asked_once(server):
    """Of a pod that was seated before only the pod is read: the rest does not change."""
    chain(server)
    owners = KubernetesPodOwners(server)
    await owners.seat("acme", "p", "p-1")
    before = server.calls.total()

    assert await owners.seat("acme", "p", "p-1") == ("i-1", "abc")
    assert server.calls.total() == before + 1


async def test_a_pod_that_names_another_namespaces_owner_seats_nobody(server):
    """What is remembered of an owner holds in its own namespace."""
    chain(server)
    owners = KubernetesPodOwners(server)
    await owners.seat("acme", "p", "p-1")
    pod = server.objects["/api/v1/namespaces/acme/pods/p"]
    server.objects["/api/v1/namespaces/evil/pods/p"] = {
        **pod,
        "metadata": {**pod["metadata"], "namespace": "evil"},
    }

    with pytest.raises(Forbidden):
        await owners.seat("evil", "p", "p-1")


OURS = "agents.everesthood.io/v1alpha1"


@pytest.mark.parametrize(
    "changes",
    [
        {"pod": {"uid": "p-2"}},
        {"pod": {"ownerReferences": []}},
        {
            "pod": {
                "ownerReferences": [
                    {"kind": "Job", "apiVersion": "batch/v1", "name": "r", "uid": "r-1", "controller": True}
                ]
            }
        },
        {
            "pod": {
                "ownerReferences": [
                    {"kind": "ReplicaSet", "apiVersion": "apps/v1", "name": "r", "uid": "r-1"}
                ]
            }
        },
        {"replica": {"uid": "r-2"}},
        {
            "replica": {
                "ownerReferences": [
                    {
                        "kind": "AgentInstance",
                        "apiVersion": OURS,
                        "name": "i",
                        "uid": "i-1",
                        "controller": True,
                    }
                ]
            }
        },
        {"deployment": {"uid": "d-2"}},
        {"deployment": {"labels": {}}},
        {
            "deployment": {
                "ownerReferences": [
                    {
                        "kind": "AgentInstance",
                        "apiVersion": "evil.io/v1",
                        "name": "i",
                        "uid": "i-1",
                        "controller": True,
                    }
                ]
            }
        },
        {"phase": "Succeeded"},
    ],
)
async def test_a_broken_or_forged_chain_seats_nobody(server, changes):
    """A stranger's pod, a replaced owner or a smuggled reference is refused."""
    chain(server, **changes)

    with pytest.raises(Forbidden) as caught:
        await KubernetesPodOwners(server).seat("acme", "p", "p-1")
    assert caught.value.reason is Reason.NOT_YOURS


async def test_a_deleted_pod_seats_nobody(server):
    """A token outlives its pod by minutes; the seat does not."""
    with pytest.raises(Forbidden):
        await KubernetesPodOwners(server).seat("acme", "p", "p-1")


async def test_a_secrets_value_is_its_text(server):
    """The gateway gets the value of the key."""
    server.secret("acme", "s", token="hunter2")

    assert await KubernetesSecrets(server).value("acme", "s", "token") == "hunter2"


@pytest.mark.parametrize(
    ("name", "key", "error", "reason"),
    [
        ("none", "token", NotFound, Reason.SECRET_NOT_FOUND),
        ("s", "none", NotFound, Reason.SECRET_KEY_NOT_FOUND),
        ("binary", "token", NotFound, Reason.SECRET_KEY_NOT_FOUND),
        ("far", "token", Forbidden, Reason.NAMESPACE_NOT_ENROLLED),
    ],
)
async def test_what_is_missing_is_named_without_a_value(server, name, key, error, reason):
    """The sentence says which Secret and key, and quotes nothing of any value."""
    server.secret("acme", "s", token="hunter2")
    server.objects["/api/v1/namespaces/acme/secrets/binary"] = {"data": {"token": "/+8aHVudGVyMg=="}}
    server.forbidden = {"/api/v1/namespaces/acme/secrets/far"}

    with pytest.raises(EveresthoodError) as caught:
        await KubernetesSecrets(server).value("acme", name, key)
    assert (type(caught.value), caught.value.reason) == (error, reason)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None or "hunter2" not in repr(caught.value.__cause__)
