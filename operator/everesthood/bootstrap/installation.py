"""What all workers of an installation share, read from the settings."""

import json

import msgspec

from everesthood.domain.children import Json
from everesthood.domain.errors import Invalid
from everesthood.domain.workers import Scheduling, Site
from everesthood.settings import Settings


def site_of(settings: Settings) -> Site:
    """Return what workers of this installation share.

    Raises:
        Invalid: a setting cannot be used.
    """
    if not settings.worker_image:
        raise Invalid("EVERESTHOOD_WORKER_IMAGE is empty: set it to the image that workers run.")
    return Site(
        namespace=settings.namespace,
        gateway_url=settings.gateway_url,
        gateway_port=settings.http_port,
        redis_port=settings.redis_port,
        image=settings.worker_image,
        pull_policy=settings.worker_image_pull_policy,
        grace_seconds=settings.worker_grace_seconds,
        rollout_seconds=settings.rollout_seconds,
        priority_class=settings.worker_priority_class,
        blocked_cidrs=tuple(filter(None, (c.strip() for c in settings.blocked_cidrs.split(",")))),
        internal_peers=_objects(
            settings.internal_peers, "EVERESTHOOD_INTERNAL_PEERS", "NetworkPolicy egress rules"
        ),
        metrics_peers=_objects(settings.metrics_peers, "EVERESTHOOD_METRICS_PEERS", "NetworkPolicy peers"),
        scheduling=_scheduling(settings.worker_scheduling),
        tolerates_simulated_nodes=settings.node_selector_fake,
    )


def _objects(text: str, name: str, what: str) -> tuple[Json, ...]:
    """Return a JSON list of objects."""
    found = _json(text)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Invalid(f"{name} must be a JSON list of {what}.")
    return tuple(found)


class _PullSecret(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class _Toleration(msgspec.Struct, rename="camel", forbid_unknown_fields=True, omit_defaults=True):
    key: str = ""
    operator: str = ""
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class _PodScheduling(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    node_selector: dict[str, str] = {}
    tolerations: list[_Toleration] = []
    image_pull_secrets: list[_PullSecret] = []


def _scheduling(text: str) -> Scheduling:
    """Return where workers run, read from how a pod spells it."""
    try:
        found = msgspec.json.decode(text, type=_PodScheduling)
    except msgspec.DecodeError as error:
        raise Invalid(
            "EVERESTHOOD_WORKER_SCHEDULING must be a JSON object with nodeSelector, tolerations and "
            f"imagePullSecrets as a pod has them: {error}."
        ) from error
    return Scheduling(
        node_selector=found.node_selector,
        tolerations=tuple(msgspec.to_builtins(found.tolerations)),
        image_pull_secrets=tuple(msgspec.to_builtins(found.image_pull_secrets)),
    )


def _json(text: str) -> object:
    """Return what a JSON text says; what is no JSON says nothing that anyone could use."""
    try:
        found: object = json.loads(text)
    except ValueError:
        return None
    return found
