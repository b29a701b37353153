"""What all workers of an installation share, read from the settings."""

import json

from everesthood.domain.children import Json
from everesthood.domain.errors import Invalid
from everesthood.domain.workers import Site
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
        tolerates_simulated_nodes=settings.node_selector_fake,
    )


def _objects(text: str, name: str, what: str) -> tuple[Json, ...]:
    """Return a JSON list of objects."""
    found = _json(text)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise Invalid(f"{name} must be a JSON list of {what}.")
    return tuple(found)


def _json(text: str) -> object:
    """Return what a JSON text says; what is no JSON says nothing that anyone could use."""
    try:
        found: object = json.loads(text)
    except ValueError:
        return None
    return found
