"""How far the workers of a new revision are, as their Deployments say."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from everesthood.domain.observed import Live
from everesthood.domain.scaling import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The state of going from one revision to another."""

    serving: str | None = None
    """Revision that new runs start on from now."""
    arrived: bool = False
    """The target is up: it serves."""
    switched: bool = False
    """The target took over from another revision just now."""
    failed: bool = False
    """The target's Deployment gave up waiting for its pods."""
    complaints: Mapping[str, str] = field(default_factory=dict)
    """Revision → what its Deployment says is wrong."""

    def why(self, revision: str) -> str:
        """Return what the Deployment of a revision complains about, to be added to a sentence."""
        said = self.complaints.get(revision)
        return f" Deployment: {said}" if said else ""


def rollout_of(
    *, target: str | None, serving: str | None, deployments: Mapping[str, Live], replicas: int
) -> Rollout:
    """Judge where the rollout to `target` is."""
    live = deployments.get(target) if target else None
    up = live is not None and is_up(live, replicas)
    complaints = {revision: said for revision, d in deployments.items() if (said := complaint(d))}
    return Rollout(
        serving=target if up else serving,
        arrived=up,
        switched=up and serving not in (None, target),
        failed=live is not None and not up and gave_up(live),
        complaints=complaints,
    )


def is_up(deployment: Live, replicas: int) -> bool:
    """Return whether all wanted pods are of the newest form and available."""
    status = json.loads(deployment.status)
    counts = (status.get("updatedReplicas", 0), status.get("availableReplicas", 0))
    return bool(status.get("observedGeneration", 0) >= deployment.generation and min(counts) >= replicas)


def gave_up(deployment: Live) -> bool:
    """Return whether the Deployment passed its progress deadline."""
    status = json.loads(deployment.status)
    return status.get("observedGeneration", 0) >= deployment.generation and any(
        c.get("type") == "Progressing" and c.get("reason") == "ProgressDeadlineExceeded"
        for c in status.get("conditions") or ()
    )


def complaint(deployment: Live) -> str:
    """Return what the Deployment says is wrong, or nothing.

    That pods are not available yet is no complaint: the numbers say it already.
    """
    for condition in json.loads(deployment.status).get("conditions") or ():
        bad = {"ReplicaFailure": "True", "Progressing": "False"}.get(condition.get("type"))
        if bad and condition.get("status") == bad and condition.get("message"):
            return str(condition["message"])
    return ""


def standing_of(deployment: Live) -> Standing:
    """Return what is there of a revision's workers."""
    status = json.loads(deployment.status)
    wanted = json.loads(deployment.content).get("spec", {}).get("replicas", 1)
    counts = (status.get("replicas", 0), status.get("updatedReplicas", 0))
    return Standing(
        replicas=wanted,
        available=status.get("availableReplicas", 0),
        settled=status.get("observedGeneration", 0) >= deployment.generation and set(counts) == {wanted},
    )
