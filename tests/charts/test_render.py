"""What the chart accepts, what it refuses, and what it renders."""

import base64
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.generators import manifests
from tests.support.helm import CHART, NAMESPACE, ROOT, HelmFailed, Object, helm, parse, render
from tests.support.pods import pods

from everesthood.bootstrap.installation import site_of
from everesthood.bootstrap.limits import shared_limits
from everesthood.domain.limits import Limits, OrganizationLimits, Rate, Shared
from everesthood.settings import Settings, variable_of

TEMPLATES = sorted(p for p in (CHART / "templates").rglob("*") if p.is_file() and p.parent.name != "crds")
STORES = {"docker.io/library/postgres:17", "docker.io/valkey/valkey:8"}


def test_the_chart_passes_lint():
    """Helm itself has nothing to complain about."""
    assert "0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("contoller.replicas=1", "contoller"),
        ("web.replica=2", "replica"),
        ('web.replicas="two"', "replicas"),
        ("web.replicas=0", "replicas"),
        ('logLevel="loud"', "logLevel"),
        ('image.digest="latest"', "digest"),
        ('egress.internal=[{"host":"a.b.svc"}]', "internal"),
        ('egress.blockedCIDRs=["everything"]', "blockedCIDRs"),
        ('organizations=["Acme Inc"]', "organizations"),
        ("admission.timeoutSeconds=60", "timeoutSeconds"),
        ("limits.platform.concurency=5", "concurency"),
        ("limits.organization.concurrency=0", "concurrency"),
        ('limits.organizations={"acme":{"rate":{"burst":2}}}', "runs"),
        ('extraEnv=[{"name":"A","valueFrom":{}}]', "extraEnv"),
    ],
)
def test_a_wrong_value_is_refused_by_name(wrong: str, named: str):
    """A typo in a value is an error that names it, never a default that is silently kept."""
    with pytest.raises(HelmFailed, match=named):
        render(wrong)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (("postgresql.enabled=false",), "database.existingSecret.name is needed"),
        (("redis.enabled=false",), "redis.existingSecret is needed"),
        (("redis.enabled=false", 'redis.existingSecret="r"'), "redis.external.host is needed"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(settings: tuple[str, ...], sentence: str):
    """An installation without a store fails before anything is created, and says what to set."""
    with pytest.raises(HelmFailed, match=sentence):
        render(*settings)


def test_the_gateway_understands_the_limits_of_the_chart():
    """What the values allow reaches the gateway as it reads it."""
    objects = render(
        "limits.platform.concurrency=100",
        "limits.organization.rate.runs=10",
        'limits.organizations={"acme":{"concurrency":50,"weight":3}}',
    )

    assert shared_limits(_env(objects, "gateway")["EVERESTHOOD_LIMITS"]) == Shared(
        platform=Limits(concurrency=100),
        organization=OrganizationLimits(rate=Rate(runs=10, period_seconds=60)),
        organizations={"acme": OrganizationLimits(concurrency=50, weight=3)},
    )


def _env(objects: list[Object], component: str) -> dict[str, str]:
    named = (pod for owner, pod in pods(objects) if owner == f"Deployment/everesthood-{component}")
    return {
        variable["name"]: variable.get("value", "")
        for container in next(named)["containers"]
        for variable in container.get("env", [])
    }


def test_every_setting_that_the_chart_passes_exists(objects: list[Object]):
    """No process is told something that it does not know."""
    known = {variable_of(setting.name) for setting in fields(Settings)}
    told = {
        variable["name"]
        for _, pod in pods(objects)
        for container in pod["containers"]
        for variable in container.get("env", [])
        if variable["name"].startswith("EVERESTHOOD_")
    }

    assert told - known == set()


def test_no_secret_value_is_outside_secrets(objects: list[Object]):
    """What is in a Secret is in no other object: not in a ConfigMap, an argument or an annotation."""
    secrets = [o for o in objects if o["kind"] == "Secret"]
    values = {
        text
        for secret in secrets
        for key, value in secret["data"].items()
        if key != "ca.crt"
        for text in (value, base64.b64decode(value).decode())
    }
    rest = json.dumps([o for o in objects if o["kind"] != "Secret"])

    assert [value[:6] for value in values if value in rest] == []


def test_with_existing_secrets_the_chart_makes_none(rendered: dict[str, list[Object]]):
    """A GitOps tool that renders without a cluster finds nothing random, so nothing ever differs."""
    assert [o for o in rendered["GitOps"] if o["kind"] == "Secret"] == []


def test_the_webhook_refuses_what_it_cannot_judge_and_judges_only_our_kinds(objects: list[Object]):
    """An outage of the webhook stops writes to our kinds, and to nothing else in the cluster."""
    (config,) = [o for o in objects if o["kind"] == "ValidatingWebhookConfiguration"]
    (webhook,) = config["webhooks"]

    assert webhook["failurePolicy"] == "Fail"
    assert webhook["timeoutSeconds"] <= 5
    assert {group for rule in webhook["rules"] for group in rule["apiGroups"]} == {"agents.everesthood.io"}
    assert not any("*" in r or "/" in r for rule in webhook["rules"] for r in rule["resources"])
    assert webhook["clientConfig"]["service"]["path"] == "/validate"


def test_an_internal_service_is_opened_by_name_and_by_wall(rendered: dict[str, list[Object]]):
    """One entry in egress.internal is all it takes: admission lets it in, the NetworkPolicy lets it out."""
    told = {
        (name.split("-")[1], variable["name"]): variable.get("value")
        for name, pod in pods(rendered["internal service"])
        for variable in pod["containers"][0].get("env", [])
    }
    (peer,) = json.loads(told["controller", "EVERESTHOOD_INTERNAL_PEERS"])

    assert told["admission", "EVERESTHOOD_INTERNAL_HOSTS"] == "models.ai.svc:80"
    assert told["gateway", "EVERESTHOOD_INTERNAL_HOSTS"] == "models.ai.svc:80"
    assert peer["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert peer["to"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "ai"}
    assert peer["to"][0]["podSelector"]["matchLabels"] == {"app": "models"}


def test_who_scrapes_our_processes_may_scrape_workers():
    """`networkPolicy.metricsFrom` reaches workers too; a peer without a namespace means ours there as well."""
    rendered = render(
        'networkPolicy.metricsFrom=[{"podSelector":{"matchLabels":{"app":"prometheus"}}},'
        '{"namespaceSelector":{}},{"ipBlock":{"cidr":"10.9.0.0/16"}}]'
    )
    (controller,) = [pod for name, pod in pods(rendered) if name.endswith("-controller")]
    told = {v["name"]: v.get("value") for v in controller["containers"][0]["env"]}
    own = {"matchLabels": {"kubernetes.io/metadata.name": "everesthood-system"}}

    assert json.loads(told["EVERESTHOOD_METRICS_PEERS"]) == [
        {"namespaceSelector": own, "podSelector": {"matchLabels": {"app": "prometheus"}}},
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.9.0.0/16"}},
    ]


def test_workers_are_placed_like_our_own_pods(rendered: dict[str, list[Object]]):
    """Nodes, tolerations and pull Secrets in `global` reach workers, in a form that the controller takes."""
    (controller,) = [pod for name, pod in pods(rendered["large"]) if name.endswith("-controller")]
    told = {v["name"]: v.get("value") for v in controller["containers"][0]["env"]}
    text = told["EVERESTHOOD_WORKER_SCHEDULING"]
    placed = site_of(Settings(worker_image="everesthood:1", worker_scheduling=text)).scheduling

    assert placed.node_selector == controller["nodeSelector"] == {"pool": "platform"}
    assert list(placed.tolerations) == controller["tolerations"]
    assert list(placed.image_pull_secrets) == controller["imagePullSecrets"]


def test_the_types_can_stay_and_can_be_left_out():
    """Uninstalling keeps everyone's objects unless told otherwise, and the types can come from elsewhere."""
    kept = [o for o in render() if o["kind"] == "CustomResourceDefinition"]
    policy = [o["metadata"].get("annotations", {}).get("helm.sh/resource-policy") for o in kept]

    assert policy == ["keep"] * 3
    assert [o for o in render("crds.enabled=false") if o["kind"] == "CustomResourceDefinition"] == []


def test_every_component_has_a_wall(objects: list[Object]):
    """Each pod of the installation is selected by a NetworkPolicy that names both directions."""
    walls = [o["spec"] for o in objects if o["kind"] == "NetworkPolicy"]
    walled = {w["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for w in walls}
    workloads = [o for o in objects if o["kind"] in {"Deployment", "StatefulSet", "Job"}]
    labels = [o["spec"]["template"]["metadata"]["labels"] for o in workloads]

    assert {label["app.kubernetes.io/component"] for label in labels} <= walled
    assert all(set(w["policyTypes"]) == {"Ingress", "Egress"} for w in walls)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: str(p.relative_to(CHART)))
def test_a_template_fits_on_two_screens(path: Path):
    """A reader can hold every template in the head."""
    assert len(path.read_text().splitlines()) <= 120


@pytest.mark.parametrize("path", sorted(manifests.files()))
def test_generated_manifests_are_up_to_date(path: str):
    """install.yaml is what the chart renders, and Argo CD's ConfigMap has the health script."""
    assert (ROOT / path).read_text() == manifests.files()[path]


@pytest.mark.parametrize("trial", [False, True])
def test_the_readmes_installation_gets_an_image_and_a_database(trial: bool):
    """Whoever types the README's lines pushes the image that pods name and makes the Secret that they read."""
    block = re.search(
        r"## Install it for real\n\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    assert block
    lines = block[1].replace("\\\n", "").replace("$IMAGE", "registry.example/everesthood").splitlines()
    words = shlex.split(next(line for line in lines if line.startswith("helm install ")))
    build, secret = (
        next(line for line in lines if part in line) for part in ("docker push", "secret generic")
    )
    settings = [words[at + 1] for at, word in enumerate(words) if word == "--set"]
    used = settings[:-1] if trial else settings
    objects = parse(
        helm("template", *words[2:4], "-n", NAMESPACE, *(part for value in used for part in ("--set", value)))
    )
    ours = {c["image"] for _, pod in pods(objects) for c in pod["containers"]} - STORES
    wanted = {
        volume["secret"]["secretName"]
        for _, pod in pods(objects)
        for volume in pod.get("volumes", ())
        if "secret" in volume
    }
    made = {o["metadata"]["name"] for o in objects if o["kind"] == "Secret"}

    assert len(ours) == 1
    assert build.endswith(f"docker push {ours.pop()}")
    assert wanted - made == (set() if trial else {secret.split()[4]})
    assert f"-n {NAMESPACE}" in secret
    assert "--from-literal=url='postgresql://" in secret
    assert words[words.index("-n") + 1] == NAMESPACE


def test_the_notes_name_a_first_agent_that_any_cluster_can_run():
    """What is to be applied after an installation exists, and asks for no image beside the chart's own."""
    notes = (CHART / "templates/NOTES.txt").read_text().replace("\\\n", "")
    paths = [ROOT / path for path in re.findall(r" -f (\S+)", notes)]
    files = [file for path in paths for file in (sorted(path.glob("*.yaml")) if path.is_dir() else [path])]
    objects = [item for file in files for item in parse(file.read_text())]
    kinds = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    run = shlex.split(next(line for line in notes.splitlines() if "everesthood run " in line))
    instance = kinds["AgentInstance", run[2]]
    template = kinds["AgentTemplate", instance["spec"]["templateRef"]["name"]]
    given = json.loads(run[run.index("--input") + 1])

    assert ("Namespace", run[run.index("-n") + 1]) in kinds
    assert f"agi/{run[2]}" in notes
    assert "image" not in json.dumps([item["spec"] for item in objects if item["kind"].startswith("Agent")])
    assert not [step for step in template["spec"]["steps"] if "code" in step]
    Draft202012Validator(template["spec"]["inputSchema"]).validate(given)
