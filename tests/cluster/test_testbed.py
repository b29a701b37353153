"""What the test bed promises to whoever tests on it."""

import json
import urllib.request
from pathlib import Path

import pytest
from tests.cluster import leftovers, pods, provider
from tests.cluster.embedded import EmbeddedCluster
from tests.cluster.fixtures import Cluster
from tests.cluster.settings import BASE_IMAGE, POSTGRES_IMAGE, VALKEY_IMAGE, Layout, TestBedError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

DATA = "/var/lib/postgresql/data/pgdata"
ALL = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def _server(cluster: Cluster, namespace: str) -> None:
    """Run a web server behind a Service, and a client that can be told what to do."""
    for manifest in (pods.pod("server", pods.SERVE), pods.service("server"), pods.pod("client")):
        cluster.apply(manifest, namespace=namespace)
    for name in ("server", "client"):
        cluster.wait(f"pod/{name}", "condition=Ready", namespace=namespace)


def _reaches(cluster: Cluster, namespace: str, url: str) -> bool:
    try:
        cluster.kubectl("exec", "client", "-n", namespace, "--", "python3", "-c", pods.fetch(url))
    except TestBedError:
        return False
    return True


def test_the_node_runs_pods(cluster: Cluster, namespace: str) -> None:
    """A pod starts, and its log and its shell can be reached from the host."""
    cluster.apply(pods.pod("hello", f"print('hello'); {pods.SLEEP}"), namespace=namespace)
    cluster.wait("pod/hello", "condition=Ready", namespace=namespace)

    assert "hello" in cluster.kubectl("logs", "hello", "-n", namespace)
    assert "1000" in cluster.kubectl("exec", "hello", "-n", namespace, "--", "id", "-u")


def test_a_service_name_leads_to_its_pod(cluster: Cluster, namespace: str) -> None:
    """A pod reaches a Service by name, short and full."""
    _server(cluster, namespace)

    cluster.wait_for(lambda: _reaches(cluster, namespace, "http://server"), timeout=20)
    assert _reaches(cluster, namespace, f"http://server.{namespace}.svc.cluster.local")


def test_the_host_reaches_a_service_by_address(cluster: Cluster, namespace: str) -> None:
    """A test finds a Service of the cluster at its address, without a forwarded port."""
    if not cluster.provider.reaches_services:
        pytest.skip("the addresses of Services lead nowhere outside this cluster's node")
    _server(cluster, namespace)
    address = cluster.get("service", "server", "-n", namespace)["spec"]["clusterIP"]
    cluster.wait_for(lambda: _reaches(cluster, namespace, "http://server"), timeout=20)

    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        f"http://{address}", timeout=5
    ) as answer:
        assert answer.status == 200


def test_a_network_policy_blocks(cluster: Cluster, namespace: str) -> None:
    """What no policy allows does not pass, and what one allows does."""
    _server(cluster, namespace)
    address = cluster.get("service", "server", "-n", namespace)["spec"]["clusterIP"]
    cluster.wait_for(lambda: _reaches(cluster, namespace, f"http://{address}"), timeout=20)

    cluster.apply(pods.policy("deny", ALL), namespace=namespace)
    cluster.wait_for(lambda: not _reaches(cluster, namespace, f"http://{address}"), timeout=20)
    assert not _reaches(cluster, namespace, "http://server")

    peers: list[dict[str, dict[str, str]]] = [{"podSelector": {}}]
    opened = ALL | {"ingress": [{"from": peers}], "egress": [{"to": peers}]}
    cluster.apply(pods.policy("allow", opened), namespace=namespace)
    cluster.wait_for(lambda: _reaches(cluster, namespace, f"http://{address}"), timeout=20)


def test_restricted_pod_security_is_enforced(cluster: Cluster, namespace: str) -> None:
    """A pod that asks for more than the restricted profile allows is refused by the API server."""
    with pytest.raises(TestBedError, match="violates PodSecurity"):
        cluster.apply(pods.pod("greedy", security={"privileged": True}), namespace=namespace)


def test_the_api_server_survives_a_kill(cluster: Cluster, namespace: str) -> None:
    """Killed without warning, it comes back with everything that it had stored."""
    cluster.kubectl("create", "configmap", "kept", "-n", namespace, "--from-literal=a=b")

    cluster.restart_apiserver()

    assert cluster.get("configmap", "kept", "-n", namespace)["data"] == {"a": "b"}


def test_fake_nodes_run_pods_that_ask_for_them(cluster: Cluster, namespace: str, fake_nodes: int) -> None:
    """A fake node makes many pods Ready at no cost and lets them go when they are deleted."""
    spec = json.loads(pods.pod("x"))["spec"] | {
        "nodeSelector": {"type": "fake"},
        "tolerations": [{"key": "fake", "operator": "Exists"}],
    }
    labels = {"app": "many"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "many"},
        "spec": {"replicas": 50, "selector": {"matchLabels": labels}, "template": template},
    }
    cluster.apply(json.dumps(deployment), namespace=namespace)
    cluster.wait("deployment/many", "condition=Available", namespace=namespace)
    assert len(cluster.get("nodes", "-l", "type=fake")["items"]) == fake_nodes

    cluster.kubectl("delete", "deployment", "many", "-n", namespace, "--cascade=foreground")

    assert cluster.get("pods", "-n", namespace)["items"] == []


@pytest.mark.parametrize(("image", "user"), [(POSTGRES_IMAGE, 999), (VALKEY_IMAGE, 999), (BASE_IMAGE, 1000)])
def test_the_images_run_without_rights(cluster: Cluster, namespace: str, image: str, user: int) -> None:
    """Each image starts as an ordinary user on a read-only file system."""
    cluster.load_image(image)
    body = json.loads(pods.pod("store"))
    body["spec"]["securityContext"] |= {"runAsUser": user, "fsGroup": user}
    body["spec"]["volumes"] = [{"name": "data", "emptyDir": {}}]
    container = body["spec"]["containers"][0]
    container["image"] = image
    mounts = ("/var/lib/postgresql/data", "/var/run/postgresql", "/data", "/tmp")
    container["volumeMounts"] = [{"name": "data", "mountPath": path, "subPath": path[1:]} for path in mounts]
    if image == POSTGRES_IMAGE:
        del container["command"]
        container["env"] = [
            {"name": name, "value": value}
            for name, value in {
                "POSTGRES_USER": "u",
                "POSTGRES_DB": "d",
                "POSTGRES_PASSWORD": "p",
                "PGDATA": DATA,
            }.items()
        ]
        probe = ["pg_isready", "-q", "-h", "127.0.0.1", "-U", "u", "-d", "d"]
        container["readinessProbe"] = {"exec": {"command": probe}, "periodSeconds": 1}
    if image == VALKEY_IMAGE:
        container["command"] = ["valkey-server", "--save", ""]
        container["readinessProbe"] = {"exec": {"command": ["valkey-cli", "ping"]}, "periodSeconds": 1}

    cluster.apply(json.dumps(body), namespace=namespace)

    cluster.wait("pod/store", "condition=Ready", namespace=namespace, timeout=120)


def test_a_stopped_cluster_leaves_nothing(tmp_path: Path) -> None:
    """A control plane of its own beside the running cluster goes without a trace, even after a crash."""
    if not isinstance(provider.choose(), EmbeddedCluster):
        pytest.skip("what the embedded cluster leaves is asked of the embedded cluster only")
    second = EmbeddedCluster(Layout(state=tmp_path / "second", subnet="10.250.7", link="everesthood7"))
    second.start(node=False, fake_nodes=1)
    assert "fake-0" in second.kubectl("get", "nodes", "-o", "name")

    second.kill("etcd")
    second.stop()

    assert leftovers.traces(second.layout, node=False) == []
