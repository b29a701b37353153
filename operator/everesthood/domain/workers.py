"""Builders of what an AgentInstance consists of: account, network policy, workers, disruption budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Final

from everesthood.apis import names
from everesthood.apis.v1alpha1.instance import AgentInstanceSpec
from everesthood.apis.v1alpha1.template import AgentTemplateSpec, Resources
from everesthood.domain.children import Child, Json, digest, label, make, short
from everesthood.domain.observed import Kind, Live

USER: Final = 10001
"""The unprivileged user of the image; named by number, so that a kubelet can see that it is not root."""
METRICS_PORT: Final = 9090
_DNS_PORT: Final = 53
_TOKEN_SECONDS: Final = 600
_STOP_MARGIN_SECONDS: Final = 10
_SIMULATED: Final = {"key": "fake", "operator": "Exists"}
_RESERVED: Final = "EVERESTHOOD_"
_BINARY: Final[dict[str, int | Fraction]] = {"Gi": 1024**3, "Mi": 1024**2, "Ki": 1024}
_DECIMAL: Final[dict[str, int | Fraction]] = {
    "G": 10**9,
    "M": 10**6,
    "k": 10**3,
    "": 1,
    "m": Fraction(1, 1000),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Where workers may run, and with which Secrets of their namespace their image is pulled."""

    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    image_pull_secrets: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What all workers of an installation share."""

    namespace: str
    gateway_url: str
    gateway_port: int
    redis_port: int
    image: str
    pull_policy: str = "IfNotPresent"
    grace_seconds: int = 30
    rollout_seconds: int = 300
    priority_class: str = ""
    blocked_cidrs: tuple[str, ...] = ()
    internal_peers: tuple[Json, ...] = ()
    metrics_peers: tuple[Json, ...] = ()
    scheduling: Scheduling = field(default_factory=Scheduling)
    tolerates_simulated_nodes: bool = False


def base_name(instance: Live) -> str:
    """Return the name of the instance's ServiceAccount, NetworkPolicy and PodDisruptionBudget."""
    return short("agent", instance.key.name)


def labels_of(instance: Live, template: str) -> dict[str, str]:
    """Return the labels of all children of an instance."""
    return {
        names.LABEL_NAME: names.MANAGED_BY,
        names.LABEL_COMPONENT: names.WORKER_COMPONENT,
        names.LABEL_INSTANCE: label(instance.key.name),
        names.LABEL_TEMPLATE: label(template),
    }


def selector(instance: Live, revision: str = "") -> dict[str, str]:
    """Return the labels that worker pods are found by."""
    found = {names.LABEL_INSTANCE: label(instance.key.name)}
    return {**found, names.LABEL_REVISION: revision} if revision else found


def config_hash(spec: AgentInstanceSpec) -> str:
    """Return a digest of what workers read once at start, so that a change replaces them."""
    return digest(
        {"config": spec.config, "bindings": {b.slot: b.credential_ref.name for b in spec.credentials}}
    )


def service_account(instance: Live, template: str) -> Child:
    """Return the identity of the workers; it has no rights and no token is mounted for it."""
    return make(
        Kind.SERVICE_ACCOUNT,
        base_name(instance),
        owner=instance,
        labels=labels_of(instance, template),
        content={"automountServiceAccountToken": False},
    )


def network_policy(instance: Live, template: str, site: Site) -> Child:
    """Return the wall around the workers: metrics in; out to DNS, gateway, broker and the world outside."""
    world = {"ipBlock": {"cidr": "0.0.0.0/0", "except": list(site.blocked_cidrs)}}
    if not site.blocked_cidrs:
        del world["ipBlock"]["except"]
    spec: Json = {
        "podSelector": {"matchLabels": selector(instance)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [_pods(site), *site.metrics_peers], "ports": [_port(METRICS_PORT)]}],
        "egress": [
            {"ports": [_port(_DNS_PORT, "UDP"), _port(_DNS_PORT)]},
            {"to": [_pods(site, "gateway")], "ports": [_port(site.gateway_port)]},
            {"to": [_pods(site, "redis")], "ports": [_port(site.redis_port)]},
            {"to": [world]},
            *site.internal_peers,
        ],
    }
    return make(
        Kind.NETWORK_POLICY,
        base_name(instance),
        owner=instance,
        labels=labels_of(instance, template),
        content={"spec": spec},
    )


def disruption_budget(instance: Live, template: str) -> Child:
    """Return the promise that a drain of nodes takes one worker at a time."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": selector(instance)}}
    return make(
        Kind.DISRUPTION_BUDGET,
        base_name(instance),
        owner=instance,
        labels=labels_of(instance, template),
        content={"spec": spec},
    )


def deployment(
    instance: Live,
    spec: AgentInstanceSpec,
    *,
    revision: str,
    template: AgentTemplateSpec,
    site: Site,
    replicas: int,
) -> Child:
    """Return the workers of one revision."""
    labels = {**labels_of(instance, spec.template_ref.name), names.LABEL_REVISION: revision}
    content: Json = {
        "replicas": replicas,
        "revisionHistoryLimit": 1,
        "progressDeadlineSeconds": site.rollout_seconds,
        "selector": {"matchLabels": selector(instance, revision)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {
                "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, **labels},
                "annotations": {names.ANNOTATION_CONFIG_HASH: config_hash(spec)},
            },
            "spec": _pod(instance, revision, template, site),
        },
    }
    return make(
        Kind.DEPLOYMENT,
        short("agent", instance.key.name, revision[:10]),
        owner=instance,
        labels=labels,
        content={"spec": content},
    )


def _pod(instance: Live, revision: str, template: AgentTemplateSpec, site: Site) -> Json:
    pod: Json = {
        "serviceAccountName": base_name(instance),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": site.grace_seconds + _STOP_MARGIN_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector(instance, revision)},
            }
        ],
        "containers": [_container(revision, template, site)],
        "volumes": [_token_volume(), {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}}],
    }
    return {**pod, **_placement(site)}


def _placement(site: Site) -> Json:
    """Return what the platform wishes of every worker pod; what it does not wish for is left out."""
    chosen, simulated = site.scheduling, site.tolerates_simulated_nodes
    fields: Json = {
        "priorityClassName": site.priority_class,
        "imagePullSecrets": list(chosen.image_pull_secrets),
        "nodeSelector": {**chosen.node_selector, **({"type": "fake"} if simulated else {})},
        "tolerations": [*chosen.tolerations, *([_SIMULATED] if simulated else [])],
    }
    return {name: value for name, value in fields.items() if value}


def _container(revision: str, template: AgentTemplateSpec, site: Site) -> Json:
    return {
        "name": names.WORKER_COMPONENT,
        "image": template.worker.image or site.image,
        "imagePullPolicy": site.pull_policy,
        "command": ["everesthood", "worker"],
        "env": _env(revision, template, site),
        "resources": _resources(template.worker.resources),
        "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/healthz", period=1, failures=60),
        "livenessProbe": _probe("/healthz", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=2, failures=3),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {
                "name": "gateway-token",
                "mountPath": names.GATEWAY_TOKEN_PATH.rpartition("/")[0],
                "readOnly": True,
            },
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the pod
        ],
    }


def _env(revision: str, template: AgentTemplateSpec, site: Site) -> list[Json]:
    """Return the author's variables and ours; an author cannot redirect a worker with ours."""
    ours = {
        "HOME": "/tmp",  # noqa: S108 - inside the pod
        "EVERESTHOOD_GATEWAY_URL": site.gateway_url,
        "EVERESTHOOD_GATEWAY_TOKEN_FILE": names.GATEWAY_TOKEN_PATH,
        "EVERESTHOOD_REVISION": revision,
        "EVERESTHOOD_WORKER_GRACE_SECONDS": str(site.grace_seconds),
    }
    theirs: list[Json] = [
        {"name": e.name, "value": e.value} if e.value else {"name": e.name}
        for e in template.worker.env
        if e.name not in ours and not e.name.startswith(_RESERVED)
    ]
    identity: Json = {
        "name": "EVERESTHOOD_IDENTITY",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
    }
    fixed: list[Json] = [{"name": k, "value": v} for k, v in ours.items()]
    return [*theirs, *fixed, identity]


def _resources(wanted: Resources) -> Json:
    memory = quantity(wanted.memory)
    return {
        "requests": {"cpu": quantity(wanted.cpu), "memory": memory},
        "limits": {"cpu": quantity(wanted.cpu_limit), "memory": memory},
    }


def _token_volume() -> Json:
    token = {
        "audience": names.GATEWAY_AUDIENCE,
        "expirationSeconds": _TOKEN_SECONDS,
        "path": names.GATEWAY_TOKEN_PATH.rpartition("/")[2],
    }
    return {"name": "gateway-token", "projected": {"sources": [{"serviceAccountToken": token}]}}


def _probe(path: str, *, period: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": METRICS_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _pods(site: Site, component: str = "") -> Json:
    peer: Json = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}},
    }
    if component:
        peer["podSelector"] = {"matchLabels": {names.LABEL_COMPONENT: component}}
    return peer


def _port(number: int, protocol: str = "TCP") -> Json:
    return {"port": number, "protocol": protocol}


@lru_cache(maxsize=512)
def quantity(text: str) -> str:
    """Return a quantity as the API server writes it: `1000m` becomes `1`, `0.5Gi` becomes `512Mi`."""
    suffix = next((s for s in (*_BINARY, "m", "k", "M", "G") if text.endswith(s)), "")
    number = Fraction(text.removesuffix(suffix)) * ({**_BINARY, **_DECIMAL}[suffix])
    scales: Mapping[str, int | Fraction] = {**_BINARY, "": 1} if suffix in _BINARY else _DECIMAL
    for name, scale in scales.items():
        if number and (number / scale).denominator == 1:
            return f"{number / scale}{name}"
    return "0" if not number else text
