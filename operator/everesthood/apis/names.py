"""Names that Everesthood writes into a cluster, a broker or a token, in one place.

Nothing else spells them, so they cannot drift.
"""

from typing import Final

GROUP: Final = "agents.everesthood.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "everesthood"

FIELD_MANAGER: Final = "everesthood-controller"
FINALIZER_MANAGER: Final = "everesthood-controller-finalizer"
FINALIZER: Final = f"{GROUP}/queue"
"""Held while an AgentInstance has a queue outside the cluster: rows in the record, a user in Redis."""

LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = f"{GROUP}/instance"
LABEL_TEMPLATE: Final = f"{GROUP}/template"
LABEL_REVISION: Final = f"{GROUP}/revision"
MANAGED_BY: Final = "everesthood"
WORKER_COMPONENT: Final = "worker"

ANNOTATION_DESIRED_HASH: Final = f"{GROUP}/desired-hash"
"""On children only: digest of what the controller last asked for; equal means nothing to apply."""
ANNOTATION_CONFIG_HASH: Final = f"{GROUP}/config-hash"
"""On worker pods: digest of config and credential bindings; a change replaces the pods."""
ANNOTATION_SKIP_CLEANUP: Final = f"{GROUP}/skip-cleanup"
"""Set to "true" by a person on an AgentInstance that shall go although its queue cannot be cleaned up."""

RUN_LABEL_PARENT: Final = f"{GROUP}/parent"
"""On a run that an agent of another run asked for: the id of that run."""
RUN_LABEL_DEPTH: Final = f"{GROUP}/depth"
"""On such a run: how many runs are above it."""

GATEWAY_AUDIENCE: Final = "everesthood-gateway"
"""Audience of a worker's ServiceAccount token. The gateway refuses any other."""
WEB_AUDIENCE: Final = "everesthood-web"
"""Audience that a client may ask for when it requests a token for the REST API."""

GATEWAY_TOKEN_PATH: Final = "/var/run/secrets/everesthood/gateway/token"  # noqa: S105 - a path
CLI_SERVICE_ACCOUNT: Final = "everesthood-cli"
"""ServiceAccount, in the organisation's namespace, that the CLI borrows when a kubeconfig has no token."""

API_PREFIX: Final = "/api/agent-marketplace"


def queue_prefix(instance_uid: str) -> str:
    """Return the Redis key prefix of one instance; its ACL user can touch nothing else."""
    return f"agi:{instance_uid}:"


def queue_name(revision: str) -> str:
    """Return the Celery queue of one revision of an instance, so that a bell never wakes the wrong worker."""
    return f"drain.{revision}"


def broker_user(instance_uid: str) -> str:
    """Return the Redis ACL user of one instance."""
    return f"agi-{instance_uid}"
