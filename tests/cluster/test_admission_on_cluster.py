"""The contract on a real API server: CRDs are taken, good manifests stored, bad ones refused."""

import base64
import copy
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest
from tests.support.apiserver import ApiServer
from tests.support.certificates import make_certificate
from tests.support.manifests import CREDENTIAL, INSTANCE, TEMPLATE, instance, template

from everesthood.apis import crds, names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

FILES = sorted((Path(__file__).parents[1] / "fixtures" / "invalid").glob("*.yaml"))
PLURALS = {crds.resource(kind).kind: crds.resource(kind).plural for kind in crds.KINDS}
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
HOOK_PATH = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
LABEL = "test.everesthood.io/admission"
APPLY = "application/apply-patch+yaml"


def collection(namespace: str, kind: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{PLURALS.get(kind, 'agenttemplates')}"


@pytest.fixture(scope="session")
def kubeconfig(cluster) -> str:
    return str(cluster.kubeconfig)


@pytest.fixture(scope="module")
def api(kubeconfig) -> ApiServer:
    server = ApiServer(kubeconfig)
    for kind in crds.KINDS:
        definition = crds.definition(kind)
        name = definition["metadata"]["name"]
        status, answer = server.send(
            "PATCH", f"{CRD_PATH}/{name}?fieldManager=test&force=true", definition, content_type=APPLY
        )
        assert status in (200, 201), answer
        _wait(lambda name=name: "Established" in _true_conditions(server, name))
    return server


def _true_conditions(server: ApiServer, name: str) -> set[str]:
    status = server.send("GET", f"{CRD_PATH}/{name}")[1].get("status", {})
    return {c["type"] for c in status.get("conditions") or () if c["status"] == "True"}


def _wait(check, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def hook(api, cluster, kubeconfig, tmp_path_factory):
    """Run the webhook as a process and register it for the labelled namespaces of this module."""
    address, port, metrics = cluster.provider.host_address, _free_port(), _free_port()
    folder = make_certificate(tmp_path_factory.mktemp("tls"), "hook", alternative=f"IP:{address}")
    environment = os.environ | {
        "EVERESTHOOD_ADMISSION_PORT": str(port),
        "EVERESTHOOD_ADMISSION_CERT_DIR": str(folder),
        "EVERESTHOOD_METRICS_PORT": str(metrics),
        "EVERESTHOOD_KUBECONFIG": kubeconfig,
    }
    command = [sys.executable, "-m", "everesthood.entrypoints.admission"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    value = f"t{uuid.uuid4().hex[:8]}"
    bundle = base64.b64encode((folder / "tls.crt").read_bytes()).decode()
    try:
        _wait(lambda: _ready(metrics, process))
        status, answer = api.send(
            "POST", HOOK_PATH, _registration(value, f"https://{address}:{port}/validate", bundle)
        )
        assert status == 201, answer
        yield value
    finally:
        api.send("DELETE", f"{HOOK_PATH}/everesthood-{value}")
        process.terminate()
        process.wait(20)
        log.close()


def _ready(port: int, process: subprocess.Popen) -> bool:
    assert process.poll() is None, "the webhook ended"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (OSError, urllib.error.HTTPError):
        return False


def _registration(value: str, url: str, bundle: str) -> dict:
    rule = {
        "apiGroups": [names.GROUP],
        "apiVersions": [names.VERSION],
        "operations": ["CREATE", "UPDATE", "DELETE"],
        "resources": sorted(PLURALS.values()),
        "scope": "Namespaced",
    }
    webhook = {
        "name": "validate.agents.everesthood.io",
        "clientConfig": {"url": url, "caBundle": bundle},
        "rules": [rule],
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "timeoutSeconds": 5,
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchLabels": {LABEL: value}},
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": f"everesthood-{value}"},
        "webhooks": [webhook],
    }


@pytest.fixture
def namespace(api, hook):
    """Make a namespace that the webhook guards, and wait until it does."""
    name = f"org-{uuid.uuid4().hex[:8]}"
    body = {"metadata": {"name": name, "labels": {LABEL: hook}}}
    assert api.send("POST", "/api/v1/namespaces", body)[0] == 201
    probe = template(steps=[{"name": "a", "transform": {"value": "1 +"}}])
    probe["spec"].pop("output")
    path = f"{collection(name, 'AgentTemplate')}?dryRun=All"
    _wait(lambda: api.send("POST", path, placed(probe, name))[0] == 422)
    yield name
    for plural in ("agentinstances", "agentcredentials", "agenttemplates"):
        api.send("DELETE", f"/apis/{names.API_VERSION}/namespaces/{name}/{plural}")
    api.send("DELETE", f"/api/v1/namespaces/{name}")


def placed(document: dict, namespace: str) -> dict:
    made = copy.deepcopy(document)
    made["metadata"]["namespace"] = namespace
    return made


def create(api, namespace, document) -> tuple[int, dict]:
    path = f"{collection(namespace, document['kind'])}?fieldValidation=Strict"
    return api.send("POST", path, placed(document, namespace))


def marked(path: Path, mark: str) -> list[str]:
    start = f"# {mark}: "
    return [line.removeprefix(start) for line in path.read_text().splitlines() if line.startswith(start)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_bad_manifest_is_refused_by_the_cluster(api, namespace, path):
    """Schema, CEL rules or webhook refuse what `everesthood validate` refuses, and nothing is stored."""
    *before, last = re.split(r"^---\n", path.read_text(), flags=re.MULTILINE)
    for text in before:
        status, answer = _post(api, namespace, text)
        assert status == 201, answer
    status, answer = _post(api, namespace, last)
    wanted = marked(path, "server") or marked(path, "expect")

    assert status in (400, 422), answer
    for sentence in wanted:
        assert sentence in answer["message"]
    assert len(_stored(api, namespace)) == len(before)


def _post(api, namespace: str, text: str) -> tuple[int, dict]:
    kind = re.search(r"^kind: (\w+)$", text, re.MULTILINE)
    path = f"{collection(namespace, kind[1] if kind else '')}?fieldValidation=Strict"
    return api.send("POST", path, text, content_type="application/yaml")


def _stored(api, namespace: str) -> list[dict]:
    return [item for kind in PLURALS for item in _listed(api, namespace, kind)]


def _listed(api, namespace: str, kind: str) -> list[dict]:
    """List once the API server can: for a moment after a CRD has changed it answers 429."""
    answers: list[tuple[int, dict]] = []

    def listed() -> bool:
        answers.append(api.send("GET", collection(namespace, kind)))
        return answers[-1][0] == 200

    _wait(listed)
    return answers[-1][1]["items"]


def test_good_manifests_are_stored_with_their_defaults(api, namespace):
    """What fits is taken, in any order, and the schema's defaults are filled in."""
    for document in (INSTANCE, CREDENTIAL, TEMPLATE):
        status, answer = create(api, namespace, document)
        assert status == 201, answer
    stored = api.send("GET", f"{collection(namespace, 'AgentTemplate')}/summary")[1]

    assert stored["spec"]["worker"]["resources"]["memory"] == "256Mi"
    assert stored["spec"]["steps"][0]["needs"] == []
    assert stored["spec"]["inputSchema"] == {}
    assert "status" not in stored or "conditions" not in stored["status"]


def test_a_second_apply_changes_nothing(api, namespace):
    """Server-side apply of the same manifest leaves the object as it is."""
    path = f"{collection(namespace, 'AgentTemplate')}/summary?fieldManager=person"
    first = api.send("PATCH", path, placed(TEMPLATE, namespace), content_type=APPLY)[1]
    second = api.send("PATCH", path, placed(TEMPLATE, namespace), content_type=APPLY)[1]
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


def test_the_template_of_an_instance_cannot_be_changed(api, namespace):
    """An instance keeps its template for life."""
    create(api, namespace, INSTANCE)
    path = f"{collection(namespace, 'AgentInstance')}/daily"
    patch = {"spec": {"templateRef": {"name": "other"}}}
    status, answer = api.send("PATCH", path, patch, content_type="application/merge-patch+json")

    assert status == 422
    assert "templateRef cannot be changed; make a new AgentInstance" in answer["message"]


def test_a_template_in_use_cannot_be_deleted(api, namespace):
    """The refusal names the users; without users the template goes."""
    for document in (TEMPLATE, CREDENTIAL, INSTANCE):
        assert create(api, namespace, document)[0] == 201
    path = f"{collection(namespace, 'AgentTemplate')}/summary"
    status, answer = api.send("DELETE", path)

    assert status == 403
    assert "template summary is used by daily; delete those AgentInstances first" in answer["message"]
    assert api.send("DELETE", f"{collection(namespace, 'AgentInstance')}/daily")[0] == 200
    assert api.send("DELETE", path)[0] == 200


def test_the_scale_subresource_and_the_field_selector_work(api, namespace):
    """`kubectl scale` sets the workers, and instances are found by their template."""
    create(api, namespace, INSTANCE)
    path = f"{collection(namespace, 'AgentInstance')}/daily"
    patch = {"spec": {"replicas": 3}}
    status, _ = api.send("PATCH", f"{path}/scale", patch, content_type="application/merge-patch+json")
    found = api.send(
        "GET", f"{collection(namespace, 'AgentInstance')}?fieldSelector=spec.templateRef.name%3Dsummary"
    )

    assert status == 200
    assert api.send("GET", path)[1]["spec"]["workers"]["replicas"] == 3
    assert [item["metadata"]["name"] for item in found[1]["items"]] == ["daily"]


def test_an_update_is_judged_like_a_creation(api, namespace):
    """A good object cannot be turned into a bad one."""
    for document in (TEMPLATE, CREDENTIAL, INSTANCE):
        create(api, namespace, document)
    path = f"{collection(namespace, 'AgentInstance')}/daily?fieldManager=person&force=true"
    status, answer = api.send("PATCH", path, placed(instance(plan="gold"), namespace), content_type=APPLY)
    assert status == 422
    assert "spec.plan: template summary has no plan gold; it has free" in answer["message"]


def test_the_largest_template_is_within_the_cost_of_its_rules(api, namespace):
    """A template with every list full is judged by the API server without hitting its budget."""
    leaf = {"name": "x", "transform": {"value": "1"}}
    inner = [leaf | {"name": f"i{n}"} for n in range(10)]
    steps = [{"name": "s0", "transform": {"value": "1"}}]
    steps += [
        {"name": f"s{n}", "needs": ["s0"], "forEach": {"items": "[1]", "steps": inner}} for n in range(1, 50)
    ]
    document = template(steps=steps)
    document["spec"].pop("output")
    status, answer = create(api, namespace, document)

    assert status == 201, answer
