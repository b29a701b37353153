"""Who says who is who: Kubernetes, or under `everesthood dev` a file."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from everesthood.domain.errors import Invalid
from everesthood.settings import Settings
from everesthood.usecases.ports.identity import Identities, PodOwners, Secrets

_KUBERNETES_SECONDS = 5.0
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What web and gateway ask of what is around them."""

    identities: Identities
    owners: PodOwners
    secrets: Secrets


@asynccontextmanager
async def surroundings(settings: Settings) -> AsyncIterator[Surroundings]:
    """Yield Kubernetes, or the file.

    Raises:
        Invalid: the file is set, and the process would serve others than this machine.
    """
    if settings.local_world:
        yield _local(settings)
        return
    # Here, so that `everesthood dev` needs no client of Kubernetes.
    from everesthood.adapters.kubernetes.client import connect  # noqa: PLC0415
    from everesthood.adapters.kubernetes.identity import KubernetesIdentities  # noqa: PLC0415
    from everesthood.adapters.kubernetes.pods import KubernetesPodOwners  # noqa: PLC0415
    from everesthood.adapters.kubernetes.secret_values import KubernetesSecrets  # noqa: PLC0415

    async with await connect(settings.kubeconfig, timeout_seconds=_KUBERNETES_SECONDS) as kubernetes:
        yield Surroundings(
            identities=KubernetesIdentities(kubernetes),
            owners=KubernetesPodOwners(kubernetes),
            secrets=KubernetesSecrets(kubernetes),
        )


def _local(settings: Settings) -> Surroundings:
    from everesthood.adapters.local import LocalWorld  # noqa: PLC0415 - of no use in a cluster

    if settings.http_host != _LOOPBACK:
        raise Invalid(
            "EVERESTHOOD_LOCAL_WORLD lets everybody who has its token do everything: it is for"
            f" `everesthood dev` and needs EVERESTHOOD_HTTP_HOST={_LOOPBACK}."
        )
    world = LocalWorld(Path(settings.local_world))
    return Surroundings(identities=world, owners=world, secrets=world)
