"""Who calls and what they may do, asked of a real control plane."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from everesthood.adapters.kubernetes.client import Client, connect, object_path
from everesthood.adapters.kubernetes.identity import KubernetesIdentities
from everesthood.adapters.kubernetes.pods import KubernetesPodOwners
from everesthood.adapters.kubernetes.secret_values import KubernetesSecrets
from everesthood.apis import names
from everesthood.apis.reasons import Reason
from everesthood.domain.access import REQUIRED, RESOURCE
from everesthood.domain.errors import EveresthoodError, Forbidden, NotFound, Unauthenticated, Unavailable
from everesthood.usecases.authorize import Authorizer
from everesthood.usecases.ports.cluster import ApiError
from everesthood.usecases.ports.identity import Access, Identity

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
RBAC = "rbac.authorization.k8s.io"
REVIEWS = [
    {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
    {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
]
CHAIN = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": ["apps"], "resources": ["replicasets", "deployments"], "verbs": ["get"]},
]


class Land:
    """A namespace of its own on the control plane, as its administrator sees it."""

    def __init__(self, admin: Client, kubeconfig: str, folder: Path) -> None:
        self.admin = admin
        self.name = f"org-{uuid.uuid4().hex[:8]}"
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._clients: list[Client] = []
        self._cluster_roles: list[str] = []

    def path(self, api_version, plural, name="", namespace=None):
        return object_path(api_version, plural, namespace=namespace or self.name, name=name)

    async def put(self, api_version, plural, body, namespace=None):
        return await self.admin.create(self.path(api_version, plural, namespace=namespace), body)

    async def account(self, name):
        await self.put("v1", "serviceaccounts", {"metadata": {"name": name}})

    async def token(self, account, *audiences, pod=None):
        """Return a token as TokenRequest makes it."""
        spec = {"audiences": list(audiences), "expirationSeconds": 600}
        if pod:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", **pod}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"{self.path('v1', 'serviceaccounts', account)}/token"
        return (await self.admin.request("POST", path, body=body))["status"]["token"]

    async def role(self, name, rules, *, account, namespace=None):
        namespace = namespace or self.name
        await self.put(f"{RBAC}/v1", "roles", {"metadata": {"name": name}, "rules": rules}, namespace)
        binding = {
            "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.name}],
            "roleRef": {"kind": "Role", "name": name, "apiGroup": RBAC},
        }
        await self.put(f"{RBAC}/v1", "rolebindings", binding, namespace)

    async def cluster_role(self, rules, *, account):
        name = f"{self.name}-{account}"
        self._cluster_roles.append(name)
        root = f"/apis/{RBAC}/v1"
        await self.admin.create(f"{root}/clusterroles", {"metadata": {"name": name}, "rules": rules})
        binding = {
            "metadata": {"name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": self.name}],
            "roleRef": {"kind": "ClusterRole", "name": name, "apiGroup": RBAC},
        }
        await self.admin.create(f"{root}/clusterrolebindings", binding)

    async def client_of(self, account):
        """Return a client that has the account's rights and no others."""
        config = YAML(typ="safe").load(self._kubeconfig)
        for user in config["users"]:
            user["user"] = {"token": await self.token(account)}
        file = self._folder / f"{account}.json"
        file.write_text(json.dumps(config))
        client = await connect(str(file))
        self._clients.append(client)
        return client

    async def leave(self):
        for client in self._clients:
            await client.close()
        for name in self._cluster_roles:
            for plural in ("clusterroles", "clusterrolebindings"):
                await self.admin.request("DELETE", f"/apis/{RBAC}/v1/{plural}/{name}", body={})
        await self.admin.request("DELETE", f"/api/v1/namespaces/{self.name}", body={})


@pytest.fixture
def kubeconfig_text(kubeconfig):
    return Path(kubeconfig).read_text()


@pytest.fixture
async def land(kubeconfig, kubeconfig_text, tmp_path):
    async with await connect(kubeconfig) as admin:
        found = Land(admin, kubeconfig_text, tmp_path)
        await admin.create("/api/v1/namespaces", {"metadata": {"name": found.name}})
        yield found
        await found.leave()


@pytest.fixture
async def identities(land):
    """Return the adapter with exactly the rights of the web process."""
    await land.account("web")
    await land.cluster_role(REVIEWS, account="web")
    return KubernetesIdentities(await land.client_of("web"))


def run_access(land, name="", verb="create", subresource="run"):
    return Access(verb=verb, namespace=land.name, resource=RESOURCE, subresource=subresource, name=name)


async def test_a_token_for_us_names_its_account(land, identities):
    """TokenReview says the account, its groups and the pod that it is bound to."""
    await land.account("ada")
    found = await identities.authenticate(await land.token("ada", names.WEB_AUDIENCE), (names.WEB_AUDIENCE,))

    assert found.username == f"system:serviceaccount:{land.name}:ada"
    assert f"system:serviceaccounts:{land.name}" in found.groups


async def test_a_token_for_another_audience_is_nobodys(land, identities):
    """The gateway's token does not open the API, the API's not the gateway, and nonsense opens nothing."""
    await land.account("ada")
    for_gateway = await land.token("ada", names.GATEWAY_AUDIENCE)
    for_web = await land.token("ada", names.WEB_AUDIENCE)
    for_server = await land.token("ada")
    header, payload, _ = for_web.split(".")

    for token, audiences in (
        (for_gateway, (names.WEB_AUDIENCE,)),
        (for_gateway, ()),
        (for_web, (names.GATEWAY_AUDIENCE,)),
        (for_web, ()),
        (for_server, (names.WEB_AUDIENCE,)),
        (f"{header}.{payload}.", (names.WEB_AUDIENCE,)),
        ("nonsense", (names.WEB_AUDIENCE,)),
        ("nonsense", ()),
    ):
        with pytest.raises(Unauthenticated):
            await identities.authenticate(token, audiences)


async def test_people_come_with_their_own_tokens(land, identities):
    """A token for the API server itself, as a kubeconfig has it, is known at the second try."""
    await land.account("ada")
    authorizer = Authorizer(identities, asyncio.get_running_loop().time)

    found = await authorizer.authenticate(await land.token("ada"))
    assert found.username.endswith(":ada")
    with pytest.raises(Unauthenticated):
        await authorizer.authenticate(await land.token("ada", names.GATEWAY_AUDIENCE))


async def test_the_token_of_a_deleted_account_or_pod_is_nobodys(land, identities):
    """A token ends with whom it was made for, long before it expires."""
    await land.account("ada")
    pod = {
        "metadata": {"name": "p"},
        "spec": {"serviceAccountName": "ada", "containers": [{"name": "c", "image": "none"}]},
    }
    made = await land.put("v1", "pods", pod)
    uid = made["metadata"]["uid"]
    bound = await land.token("ada", names.GATEWAY_AUDIENCE, pod={"name": "p", "uid": uid})
    free = await land.token("ada", names.WEB_AUDIENCE)
    found = await identities.authenticate(bound, (names.GATEWAY_AUDIENCE,))
    assert found.extra["authentication.kubernetes.io/pod-uid"] == (uid,)

    await land.admin.request("DELETE", land.path("v1", "pods", "p"), body={"gracePeriodSeconds": 0})
    await gone(identities, bound, names.GATEWAY_AUDIENCE)
    await land.admin.request("DELETE", land.path("v1", "serviceaccounts", "ada"), body={})
    await gone(identities, free, names.WEB_AUDIENCE)


async def gone(identities, token, audience):
    async with asyncio.timeout(30):
        while True:
            try:
                await identities.authenticate(token, (audience,))
            except Unauthenticated:
                return
            await asyncio.sleep(0.2)


async def test_rbac_decides(land, identities):
    """A Role opens its verb on its subresource in its namespace, and nothing beside it."""
    await land.account("ada")
    rule = {"apiGroups": [names.GROUP], "resources": ["agentinstances/run"], "verbs": ["create"]}
    await land.role("run", [rule], account="ada")
    ada = await identities.authenticate(await land.token("ada"), ())

    await allowed(identities, ada, run_access(land))
    assert await identities.allows(ada, run_access(land, "any"))
    for need in REQUIRED.values():
        access = run_access(land, verb=need.verb, subresource=need.subresource)
        assert await identities.allows(ada, access) == (need == REQUIRED["createRun"])
    elsewhere = Access(verb="create", namespace="default", resource=RESOURCE, subresource="run")
    assert not await identities.allows(ada, elsewhere)
    assert not await identities.allows(Identity(username="nobody"), run_access(land))


async def test_rbac_can_open_one_instance(land, identities):
    """resourceNames opens that instance, not the namespace."""
    await land.account("ada")
    rule = {
        "apiGroups": [names.GROUP],
        "resources": ["agentinstances/run"],
        "verbs": ["create"],
        "resourceNames": ["one"],
    }
    await land.role("run", [rule], account="ada")
    ada = await identities.authenticate(await land.token("ada"), ())

    await allowed(identities, ada, run_access(land, "one"))
    assert not await identities.allows(ada, run_access(land, "two"))
    assert not await identities.allows(ada, run_access(land))


async def test_groups_and_extra_count(land, identities):
    """A permission that hangs on a group is found, so the whole identity must travel."""
    rule = {"apiGroups": [names.GROUP], "resources": ["agentinstances/run"], "verbs": ["create"]}
    await land.put(f"{RBAC}/v1", "roles", {"metadata": {"name": "g"}, "rules": [rule]})
    binding = {
        "metadata": {"name": "g"},
        "subjects": [{"kind": "Group", "name": "operators", "apiGroup": RBAC}],
        "roleRef": {"kind": "Role", "name": "g", "apiGroup": RBAC},
    }
    await land.put(f"{RBAC}/v1", "rolebindings", binding)

    member = Identity(username="ada", groups=("operators",), uid="u", extra={"example.com/a": ("b",)})
    await allowed(identities, member, run_access(land))
    assert not await identities.allows(Identity(username="ada"), run_access(land))


async def allowed(identities, who, access):
    """Wait for the API server to see the binding."""
    async with asyncio.timeout(20):
        while not await identities.allows(who, access):
            await asyncio.sleep(0.1)


async def test_without_its_role_nobody_is_let_in(land):
    """A web process whose account may not ask answers 503, never yes and never 401."""
    await land.account("bare")
    bare = KubernetesIdentities(await land.client_of("bare"))

    with pytest.raises(Unavailable):
        await bare.authenticate("t", (names.WEB_AUDIENCE,))
    with pytest.raises(Unavailable):
        await bare.allows(Identity(username="ada"), run_access(land))


async def test_the_web_account_can_ask_and_nothing_else(land, identities):
    """It reads no Secret, no pod and none of our kinds."""
    client = identities._client

    for path in (
        land.path("v1", "secrets"),
        land.path("v1", "pods"),
        land.path(names.API_VERSION, RESOURCE),
    ):
        with pytest.raises(ApiError) as caught:
            await client.request("GET", path)
        assert caught.value.status in {403, 404}


@pytest.fixture
async def instance(land):
    """An AgentInstance with a Deployment as the controller makes it, and the pod that follows."""
    for file in sorted((ROOT / "crds").glob("*.yaml")):
        crd = YAML(typ="safe").load(file.read_text())
        root = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        await land.admin.apply(f"{root}/{crd['metadata']['name']}", crd)
    made = await served(land)
    await land.account("agent-i")
    owner = {
        "apiVersion": names.API_VERSION, "kind": "AgentInstance", "name": "i",
        "uid": made["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    deployment = {
        "metadata": {"name": "agent-i", "labels": {names.LABEL_REVISION: "abc"}, "ownerReferences": [owner]},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": "i"}},
            "template": {
                "metadata": {"labels": {"app": "i"}},
                "spec": {"serviceAccountName": "agent-i", "containers": [{"name": "c", "image": "none"}]},
            },
        },
    }
    await land.put("apps/v1", "deployments", deployment)
    return made["metadata"]["uid"]


async def served(land):
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "AgentInstance",
        "metadata": {"name": "i"},
        "spec": {"templateRef": {"name": "t"}},
    }
    async with asyncio.timeout(30):
        while True:
            try:
                return await land.put(names.API_VERSION, RESOURCE, body)
            except ApiError as error:
                assert error.status == 404  # noqa: PT017 - the kind is not served yet
            await asyncio.sleep(0.1)


async def pod_of(land):
    async with asyncio.timeout(60):
        while True:
            found = await land.admin.get(land.path("v1", "pods"), query={"labelSelector": "app=i"})
            if found["items"]:
                return found["items"][0]["metadata"]
            await asyncio.sleep(0.1)


async def test_a_workers_pod_leads_to_its_instance(land, instance):
    """Pod → ReplicaSet → Deployment → AgentInstance, with exactly the gateway's rights."""
    await land.account("gateway")
    await land.cluster_role(CHAIN, account="gateway")
    owners = KubernetesPodOwners(await land.client_of("gateway"))
    pod = await pod_of(land)

    assert await owners.seat(land.name, pod["name"], pod["uid"]) == (instance, "abc")
    with pytest.raises(Forbidden):
        await owners.seat(land.name, pod["name"], str(uuid.uuid4()))
    with pytest.raises(Forbidden):
        await owners.seat("default", pod["name"], pod["uid"])


async def test_a_strangers_pod_leads_nowhere(land):
    """A pod that a tenant made by hand under the worker's account has no seat."""
    await land.account("agent-i")
    await land.account("gateway")
    await land.cluster_role(CHAIN, account="gateway")
    pod = {
        "metadata": {"name": "evil", "labels": {names.LABEL_REVISION: "abc"}},
        "spec": {"serviceAccountName": "agent-i", "containers": [{"name": "c", "image": "none"}]},
    }
    made = await land.put("v1", "pods", pod)
    owners = KubernetesPodOwners(await land.client_of("gateway"))

    with pytest.raises(Forbidden) as caught:
        await owners.seat(land.name, "evil", made["metadata"]["uid"])
    assert caught.value.reason is Reason.NOT_YOURS


async def test_secrets_are_read_only_where_the_namespace_is_enrolled(land):
    """The RoleBinding of an organisation opens its Secrets; elsewhere it is NamespaceNotEnrolled."""
    await land.account("gateway")
    secret = {"metadata": {"name": "key"}, "stringData": {"token": "hunter2"}}
    await land.put("v1", "secrets", secret)
    secrets = KubernetesSecrets(await land.client_of("gateway"))
    with pytest.raises(Forbidden) as caught:
        await secrets.value(land.name, "key", "token")
    assert caught.value.reason is Reason.NAMESPACE_NOT_ENROLLED

    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
    await land.role("secrets", [rule], account="gateway")
    assert await readable(secrets, land.name) == "hunter2"
    for namespace, name, key, kind, reason in (
        (land.name, "none", "token", NotFound, Reason.SECRET_NOT_FOUND),
        (land.name, "key", "none", NotFound, Reason.SECRET_KEY_NOT_FOUND),
        ("kube-system", "key", "token", Forbidden, Reason.NAMESPACE_NOT_ENROLLED),
    ):
        with pytest.raises(EveresthoodError) as caught:
            await secrets.value(namespace, name, key)
        assert (type(caught.value), caught.value.reason) == (kind, reason)


async def readable(secrets, namespace):
    async with asyncio.timeout(20):
        while True:
            try:
                return await secrets.value(namespace, "key", "token")
            except Forbidden:
                await asyncio.sleep(0.1)
