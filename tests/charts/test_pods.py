"""Pods of the chart: restricted, disrupted one at a time, and told their secrets by file."""

from tests.support.helm import Object, render
from tests.support.pods import pods, weaknesses


def test_every_pod_meets_the_restricted_standard(objects: list[Object]):
    """An operator can enforce restricted pod security on the installation's namespace."""
    assert {name: found for name, pod in pods(objects) if (found := weaknesses(pod))} == {}


def test_a_budget_exists_only_where_a_pod_can_be_spared(objects: list[Object]):
    """A node can always be drained: one replica has no budget, more give up one at a time."""
    replicas = {o["metadata"]["name"]: o["spec"]["replicas"] for o in objects if o["kind"] == "Deployment"}
    budgets = {o["metadata"]["name"]: o["spec"] for o in objects if o["kind"] == "PodDisruptionBudget"}

    assert set(budgets) == {name for name, count in replicas.items() if count > 1}
    assert all(b["maxUnavailable"] == 1 and "minAvailable" not in b for b in budgets.values())


def test_no_secret_is_in_an_environment(objects: list[Object]):
    """A secret is a mounted file; none can be read from an environment or a command line."""
    texts = [
        (name, variable)
        for name, pod in pods(objects)
        for container in pod["containers"]
        for variable in container.get("env", [])
        if "secretKeyRef" in variable.get("valueFrom", {}) or container.get("envFrom")
    ]

    assert texts == []


def test_each_process_sees_only_the_secrets_that_it_needs():
    """Nobody but gateway and scheduler holds the bell key, and only the scheduler administers Redis."""
    seen = {
        name: {
            (volume["secret"]["secretName"], item["key"])
            for volume in pod["volumes"]
            for item in volume.get("secret", {}).get("items", [])
        }
        for name, pod in pods(render())
    }
    url = ("everesthood-postgresql", "url")
    ring = ("everesthood-redis", "bell-password")
    bell_key = ("everesthood-keys", "bell-key")

    assert {name.split("-")[1]: keys for name, keys in seen.items()} == {
        "controller": {url},
        "admission": {("everesthood-admission-tls", "tls.crt"), ("everesthood-admission-tls", "tls.key")},
        "gateway": {url, ring, bell_key, ("everesthood-keys", "fingerprint-key")},
        "web": {url, ring},
        "scheduler": {url, ring, bell_key, ("everesthood-redis", "admin-password")},
        "migrate": {url},
        "postgresql": {("everesthood-postgresql", "password")},
        "redis": {("everesthood-redis", "users.conf")},
    }


def test_a_process_without_kubernetes_work_has_no_token():
    """Scheduler, migration and stores cannot talk to the API server at all."""
    tokens = {name: pod["automountServiceAccountToken"] for name, pod in pods(render())}

    assert {name.split("-")[1] for name, mounted in tokens.items() if mounted} == {
        "controller",
        "admission",
        "gateway",
        "web",
    }


def test_global_placement_reaches_every_pod(rendered: dict[str, list[Object]]):
    """Node selector, tolerations, pull secrets and priority are said once and hold for all pods."""
    for name, pod in pods(rendered["large"]):
        assert pod["nodeSelector"] == {"pool": "platform"}, name
        assert pod["imagePullSecrets"] == [{"name": "pull"}], name
        assert pod["tolerations"] == [{"key": "platform", "operator": "Exists"}], name
        assert pod["priorityClassName"] == "high", name


def test_the_migration_is_a_new_job_whenever_its_pod_changes():
    """An upgrade never fails on a Job that cannot be changed."""
    names = {
        o["metadata"]["name"]
        for settings in ((), ('image.tag="2"',), ('logLevel="debug"',))
        for o in render(*settings)
        if o["kind"] == "Job"
    }

    assert len(names) == 3
