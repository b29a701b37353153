"""Rights: who may do what, line by line, and what nobody may."""

from collections.abc import Iterator

import pytest
from tests.support.helm import Object, render

from everesthood.domain.access import REQUIRED

OURS = "agents.everesthood.io"
PEOPLE = {"org-admin", "agent-developer", "agent-operator", "viewer", "view"}
FORBIDDEN_RESOURCES = {
    "serviceaccounts/token",
    "pods/exec",
    "pods/attach",
    "pods/portforward",
    "pods/ephemeralcontainers",
    "nodes/proxy",
}
FORBIDDEN_VERBS = {"impersonate", "escalate", "bind", "*"}
GUARDED_GROUPS = {"rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io"}
READS = {"get", "list", "watch"}

Right = tuple[str, str, str]


def roles(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    for item in objects:
        if item["kind"] in {"ClusterRole", "Role"}:
            yield item["metadata"]["name"].removeprefix("everesthood-"), item


def rights(role: Object) -> set[Right]:
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def problems(name: str, role: Object) -> Iterator[str]:
    """Yield what no role of ours may hold."""
    for group, resource, verb in rights(role):
        right = f"{name}: {verb} {resource}.{group}"
        if "*" in (group, resource) or verb in FORBIDDEN_VERBS or resource in FORBIDDEN_RESOURCES:
            yield right
        if resource == "secrets" and (name != "gateway-secrets" or verb != "get"):
            yield right
        if group in GUARDED_GROUPS and verb not in READS:
            yield right
        if name in PEOPLE and (group != OURS or resource.endswith(("/status", "/finalizers"))):
            yield right


def test_no_role_holds_a_right_that_leads_to_others(objects: list[Object]):
    """No wildcard, no exec, no token, no impersonation, no write to RBAC; Secrets for the gateway alone."""
    assert [p for name, role in roles(objects) for p in problems(name, role)] == []


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("controller", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}),
        ("gateway-secrets", {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}),
        ("web", {"apiGroups": ["*"], "resources": ["pods"], "verbs": ["get"]}),
        ("web", {"apiGroups": [""], "resources": ["pods/exec"], "verbs": ["create"]}),
        ("viewer", {"apiGroups": [OURS], "resources": ["agentinstances/status"], "verbs": ["patch"]}),
        (
            "controller",
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create"]},
        ),
    ],
)
def test_the_linter_sees_a_dangerous_right(name: str, rule: Object):
    """The rule above is worth something: it finds each kind of dangerous right."""
    assert list(problems(name, {"rules": [rule]})) != []


def test_the_secret_reading_role_is_bound_in_enrolled_namespaces_only():
    """The gateway can read Secrets of enrolled organisations, and nowhere else."""
    objects = render('organizations=["acme","globex"]')
    bindings = [o for o in objects if o["kind"].endswith("Binding")]
    secret = [b for b in bindings if b["roleRef"]["name"] == "everesthood-gateway-secrets"]

    assert {(b["kind"], b["metadata"]["namespace"]) for b in secret} == {
        ("RoleBinding", "acme"),
        ("RoleBinding", "globex"),
    }
    assert all(b["subjects"][0]["name"] == "everesthood-gateway" for b in secret)


def test_roles_of_people_are_bound_to_nobody(objects: list[Object]):
    """Who holds which role is the organisation's decision; the chart makes none."""
    bound = {o["roleRef"]["name"].removeprefix("everesthood-") for o in objects if "roleRef" in o}

    assert bound & PEOPLE == set()


def test_only_the_view_role_is_aggregated(objects: list[Object]):
    """The built-in roles learn to read templates and instances, and nothing else of ours."""
    aggregated = {
        name: rights(role)
        for name, role in roles(objects)
        if any("aggregate-to" in label for label in role["metadata"]["labels"])
    }

    assert aggregated == {"view": {(OURS, r, v) for r in ("agenttemplates", "agentinstances") for v in READS}}


def test_the_processes_hold_exactly_these_rights():
    """A new right of a process is a change of this table, seen in review."""
    objects = render()
    kinds = ("agenttemplates", "agentinstances", "agentcredentials")
    read_ours = {(OURS, kind, verb) for kind in kinds for verb in READS}
    review = {("authentication.k8s.io", "tokenreviews", "create")}
    held: dict[str, set[Right]] = {}
    for name, role in roles(objects):
        if name not in PEOPLE and role["kind"] == "ClusterRole":
            held[name] = rights(role)

    assert held["admission"] == read_ours
    assert held["web"] == review | {("authorization.k8s.io", "subjectaccessreviews", "create")}
    assert held["gateway-secrets"] == {("", "secrets", "get")}
    assert held["gateway"] == review | {
        ("", "pods", "get"),
        ("apps", "replicasets", "get"),
        ("apps", "deployments", "get"),
    }
    writes = {right for right in held["controller"] if right[2] not in READS}
    assert {(g, r) for g, r, _ in writes} == {
        *((OURS, f"{kind}/status") for kind in kinds),
        (OURS, "agentinstances"),
        (OURS, "agenttemplates/finalizers"),
        (OURS, "agentinstances/finalizers"),
        ("apps", "deployments"),
        ("apps", "controllerrevisions"),
        ("", "serviceaccounts"),
        ("networking.k8s.io", "networkpolicies"),
        ("policy", "poddisruptionbudgets"),
        ("", "events"),
        ("", "pods"),
    }
    assert {verb for group, resource, verb in held["controller"] if (group, resource) == ("", "pods")} == {
        "get",
        "delete",
    }


def test_whoever_runs_an_organisation_may_do_every_operation(objects: list[Object]):
    """No operation of the REST API is one that nobody can be given."""
    held = {(resource, verb) for group, resource, verb in rights(dict(roles(objects))["org-admin"])}
    needed = {(f"agentinstances/{need.subresource}", need.verb) for need in REQUIRED.values()}

    assert needed - held == set()


def test_decisions_are_for_those_who_operate(objects: list[Object]):
    """Authors and onlookers decide nothing; only an organisation's admin may stop all of it."""
    held = {name: {r.partition("/")[2] for _, r, _ in rights(role)} for name, role in roles(objects)}
    deciding = {"approve", "resolve", "pause"}

    assert deciding <= held["agent-operator"]
    assert {name for name in PEOPLE if held[name] & deciding} == {"org-admin", "agent-operator"}
    assert {name for name in PEOPLE if "stop" in held[name]} == {"org-admin"}
    assert {name for name in PEOPLE if "queue" in held[name]} == PEOPLE - {"view"}
