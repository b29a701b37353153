"""What restricted pod security asks of a pod, and how to find the pods in rendered objects."""

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def pods(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Yield `kind/name` and pod spec of everything that makes pods."""
    for item in objects:
        if item["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet"}:
            yield f"{item['kind']}/{item['metadata']['name']}", item["spec"]["template"]["spec"]


def weaknesses(pod: Object) -> list[str]:
    """Return where a pod falls short of the restricted standard, and of a read-only root."""
    security = pod.get("securityContext", {})
    found = [
        problem
        for problem, wrong in {
            "may run as root": security.get("runAsNonRoot") is not True or not security.get("runAsUser"),
            "no seccomp profile": security.get("seccompProfile") != {"type": "RuntimeDefault"},
            "shares the host": any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")),
            "mounts a token": pod.get("automountServiceAccountToken") is None,
            "sees all Services": pod.get("enableServiceLinks") is not False,
        }.items()
        if wrong
    ]
    found += [f"volume {v['name']}" for v in pod.get("volumes", []) if not _VOLUMES & set(v)]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        found += [f"{container['name']}: {problem}" for problem in _container_weaknesses(container)]
    return found


def _container_weaknesses(container: Object) -> Iterator[str]:
    security = container.get("securityContext", {})
    if security.get("allowPrivilegeEscalation") is not False:
        yield "may escalate"
    if security.get("readOnlyRootFilesystem") is not True:
        yield "may write to its root"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "keeps capabilities"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "has no memory limit"
    if not container.get("resources", {}).get("requests"):
        yield "requests nothing"
    if container["image"].endswith(":latest") or ":" not in container["image"].split("@")[0] + "@:":
        yield "has an image that changes"
