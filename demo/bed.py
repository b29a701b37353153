"""The cluster of the demo and of the end-to-end tests: the test bed's, with the images of this checkout."""

from typing import Final

from tests.cluster import images
from tests.cluster.commands import run
from tests.cluster.current import CurrentCluster
from tests.cluster.embedded import EmbeddedCluster
from tests.cluster.kind import KindCluster
from tests.cluster.progress import say
from tests.cluster.provider import Provider, choose
from tests.cluster.settings import OPERATOR_IMAGE, TestBedError

from demo.guest import Guest
from demo.installation import SAMPLES, STORES
from demo.tools import Tools

BedFailed = TestBedError
EXPENSES_IMAGE: Final = "everesthood.test/expense-check:dev"


def load_images(cluster: Provider) -> dict[str, str]:
    """Give the node our image, the stores' and that of the sample with code of its own, built where stale.

    Return by which names manifests have to call the images of this checkout, so that pods are replaced
    when an image has changed, and only then. Somebody's cluster pulls all of them from registries.
    """
    for image in (OPERATOR_IMAGE, *STORES):
        cluster.load_image(image)
    folder = SAMPLES / "expense-check"
    if isinstance(cluster, KindCluster):
        base = f"EVERESTHOOD_IMAGE={OPERATOR_IMAGE}"
        run("docker", "build", "-q", "-t", EXPENSES_IMAGE, "--build-arg", base, folder)
    elif isinstance(cluster, EmbeddedCluster):
        images.build_author_image(folder, EXPENSES_IMAGE)
    cluster.load_image(EXPENSES_IMAGE)
    ours = (OPERATOR_IMAGE, EXPENSES_IMAGE)
    elsewhere = (*ours, *STORES) if isinstance(cluster, CurrentCluster) else ours
    return {name: cluster.name_by_content(name) for name in elsewhere}


def tools_of(cluster: Provider) -> Tools:
    """Return the programs that a person would use on this cluster."""
    kubectl, environment = cluster.tool("kubectl")
    helm, _ = cluster.tool("helm")
    return Tools(
        kubeconfig=cluster.kubeconfig,
        kubectl_path=kubectl,
        helm_path=helm,
        environment={**environment, "KUBECTL": str(kubectl)},
    )


def check_images(cluster: Provider) -> None:
    """Refuse somebody's cluster, before anything is done to it, as long as it can have no image of ours."""
    if isinstance(cluster, CurrentCluster):
        say(f"images from {cluster.registry}")


def check_own(cluster: Provider) -> None:
    """Refuse somebody's cluster to those who break things on purpose and tidy up by ending the cluster."""
    if isinstance(cluster, CurrentCluster):
        raise TestBedError(
            "CLUSTER=current is for the demo; what runs here needs CLUSTER=embedded or CLUSTER=kind"
        )


def guest_of(cluster: Provider) -> Guest | None:
    """Return the demo's part as a guest, or nothing where the whole cluster is the demo's."""
    return Guest(tools_of(cluster)) if isinstance(cluster, CurrentCluster) else None


def choose_cluster() -> Provider:
    """Return the cluster that CLUSTER names, or the first that this machine can run."""
    return choose()
