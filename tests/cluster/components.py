"""How each component is called: flags and configuration files, nothing else."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster import binaries
from tests.cluster.settings import DNS_IP, NODE, PAUSE_IMAGE, POD_CIDR, SERVICE_CIDR, Layout

Argv = list[str]

# The defaults of 20 requests a second would make a test measure the throttle.
QPS, BURST = 500, 1000


def etcd(layout: Layout) -> Argv:
    """Without fsync: this data may be lost with the machine, and a boot is seconds faster."""
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return [
        str(binaries.component("etcd")),
        f"--data-dir={layout.state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync=true",
        "--log-level=warn",
    ]


def apiserver(layout: Layout, extra: Sequence[str]) -> Argv:
    pki = layout.pki
    return [
        str(binaries.component("kube-apiserver")),
        "--etcd-servers=http://127.0.0.1:2379",
        "--bind-address=0.0.0.0",
        "--secure-port=6443",
        f"--advertise-address={layout.node_ip}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet.crt'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
        "--max-requests-inflight=800",
        "--max-mutating-requests-inflight=400",
        *extra,
    ]


def controller_manager(layout: Layout) -> Argv:
    pki, config = layout.pki, layout.pki / "controller-manager.conf"
    return [
        str(binaries.component("kube-controller-manager")),
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        f"--kube-api-qps={QPS}",
        f"--kube-api-burst={BURST}",
        "--concurrent-deployment-syncs=20",
        "--concurrent-replicaset-syncs=20",
        "--concurrent-gc-syncs=40",
        "--concurrent-namespace-syncs=20",
    ]


def scheduler(layout: Layout) -> Argv:
    kubeconfig = layout.pki / "scheduler.conf"
    config = _write(
        layout.state / "scheduler.json",
        {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(kubeconfig), "qps": QPS, "burst": BURST},
        },
    )
    return [
        str(binaries.component("kube-scheduler")),
        f"--config={config}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--bind-address=127.0.0.1",
    ]


def containerd(layout: Layout) -> Argv:
    """Version 2 of the file format, which both Debian 12's containerd and later ones read."""
    text = f"""
version = 2
root = "{layout.containerd_root}"
state = "{layout.state}/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{layout.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{layout.state}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Some machines withhold CAP_SYS_RESOURCE; then runc may not lower oom_score_adj.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{layout.state}/cni/net.d"
"""
    file = layout.state / "containerd.toml"
    file.write_text(text)
    _cni(layout)
    return ["containerd", "--config", str(file)]


def kubelet(layout: Layout) -> Argv:
    pki, state = layout.pki, layout.state
    (state / "resolv.conf").write_text(f"nameserver {DNS_IP}\n")
    config = _write(
        state / "kubelet.json",
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
            "authentication": {
                "anonymous": {"enabled": False},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(pki / "kubelet.key"),
            "address": layout.node_ip,
            "healthzBindAddress": "127.0.0.1",
            "failSwapOn": False,
            # For machines that withhold CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            "resolvConf": str(state / "resolv.conf"),
            "clusterDomain": "cluster.local",
            "clusterDNS": [DNS_IP],
            "podLogsDir": str(state / "podlogs"),
            "volumePluginDir": str(state / "volume-plugins"),
            "maxPods": 250,
            "syncFrequency": "10s",
            "nodeStatusUpdateFrequency": "5s",
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "2%",
                "imagefs.available": "2%",
            },
            "serializeImagePulls": False,
        },
    )
    return [
        str(binaries.component("kubelet")),
        f"--config={config}",
        f"--kubeconfig={pki / 'kubelet.conf'}",
        f"--root-dir={state / 'kubelet'}",
        f"--node-ip={layout.node_ip}",
        f"--hostname-override={NODE}",
    ]


def proxy(layout: Layout) -> Argv:
    config = _write(
        layout.state / "proxy.json",
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(layout.pki / "proxy.conf")},
            "hostnameOverride": NODE,
            "clusterCIDR": POD_CIDR,
            "healthzBindAddress": f"{layout.node_ip}:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            # Zero: leave the machine's connection tracking limits alone.
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "nodePortAddresses": ["primary"],
        },
    )
    return [str(binaries.component("kube-proxy")), f"--config={config}"]


def router(layout: Layout) -> Argv:
    """Enforce NetworkPolicy only; without an enforcer policies are accepted and ignored."""
    return [
        str(binaries.kube_router()),
        f"--kubeconfig={layout.pki / 'router.conf'}",
        f"--hostname-override={NODE}",
        "--run-firewall=true",
        "--run-router=false",
        "--run-service-proxy=false",
        "--run-loadbalancer=false",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
    ]


def coredns(layout: Layout) -> Argv:
    corefile = layout.state / "Corefile"
    corefile.write_text(f""".:53 {{
    errors
    health {layout.node_ip}:8080
    ready {layout.node_ip}:8181
    cache 5
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {layout.pki / "coredns.conf"} everesthood-test
        pods insecure
        ttl 5
    }}
}}
""")
    return [str(binaries.component("coredns")), "-conf", str(corefile)]


def _cni(layout: Layout) -> None:
    ipam = {
        "type": "host-local",
        "dataDir": str(layout.state / "cni" / "ipam"),
        "ranges": [[{"subnet": POD_CIDR}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": ipam,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    config = {"cniVersion": "0.4.0", "name": "everesthood", "plugins": [bridge, ports]}
    _write(layout.state / "cni" / "net.d" / "10-everesthood.conflist", config)


def _write(file: Path, content: dict[str, Any]) -> Path:
    """Write configuration as JSON, which every reader of YAML accepts."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1))
    return file
