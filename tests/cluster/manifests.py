"""Objects that every embedded cluster has from the start: the DNS Service and some volumes."""

from collections.abc import Iterator

from tests.cluster.api import Object
from tests.cluster.settings import DNS_IP, NODE, Layout

VOLUMES = 12


def dns(layout: Layout) -> Iterator[tuple[str, Object]]:
    """Yield path and body of the Service that leads pods to CoreDNS, which is no pod here."""
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    yield (
        "/api/v1/namespaces/kube-system/services/kube-dns",
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_IP, "ports": ports},
        },
    )
    yield (
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-host",
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-host",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [layout.node_ip], "conditions": {"ready": True}}],
        },
    )


def storage(layout: Layout) -> Iterator[tuple[str, Object]]:
    """Yield a default StorageClass and volumes for it; a dozen claims need no provisioner."""
    yield (
        "/apis/storage.k8s.io/v1/storageclasses/standard",
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
    )
    for number in range(VOLUMES):
        yield _volume(layout, f"volume-{number:02}")


def _volume(layout: Layout, name: str) -> tuple[str, Object]:
    folder = layout.state / "volumes" / name
    folder.mkdir(parents=True, exist_ok=True)
    # Any uid may write, because Kubernetes does not hand over the ownership of host folders.
    folder.chmod(0o777)
    place = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return (
        f"/api/v1/persistentvolumes/{name}",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {
                "storageClassName": "standard",
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [place]}]}},
            },
        },
    )
