"""Certificates and kubeconfigs of one cluster: a throw-away authority, made anew at each start."""

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.commands import run
from tests.cluster.settings import NODE, SERVICE_IP, Layout

# Name of the file -> subject. The groups give the rights that Kubernetes' own roles describe.
CLIENTS = {
    "admin": "/O=system:masters/CN=admin",
    "apiserver-kubelet": "/O=system:masters/CN=kube-apiserver-kubelet-client",
    "controller-manager": "/CN=system:kube-controller-manager",
    "scheduler": "/CN=system:kube-scheduler",
    "proxy": "/CN=system:kube-proxy",
    "router": "/O=system:masters/CN=kube-router",
    "coredns": "/O=system:masters/CN=coredns",
}


def create(layout: Layout) -> None:
    """Write every key, certificate and kubeconfig that the components need."""
    layout.pki.mkdir(parents=True, exist_ok=True, mode=0o700)
    _authority(layout.pki)
    for name, subject in CLIENTS.items():
        _issue(layout.pki, name, subject)
    service = [f"DNS:kubernetes{suffix}" for suffix in ("", ".default", ".default.svc")]
    full = "DNS:kubernetes.default.svc.cluster.local"
    addresses = ["IP:127.0.0.1", f"IP:{layout.node_ip}", f"IP:{SERVICE_IP}", "DNS:localhost"]
    _issue(layout.pki, "apiserver", "/CN=kube-apiserver", [*addresses, *service, full])
    _issue(
        layout.pki,
        "kubelet",
        f"/O=system:nodes/CN=system:node:{NODE}",
        [f"IP:{layout.node_ip}", f"DNS:{NODE}"],
    )
    _service_account_key(layout.pki)
    for name in ("admin", "controller-manager", "scheduler", "proxy", "router", "coredns", "kubelet"):
        _kubeconfig(layout, name)


def _authority(pki: Path) -> None:
    run(*_request(pki, "ca", "/CN=everesthood-test-bed"), "-addext", "keyUsage=critical,keyCertSign,cRLSign")


def _issue(pki: Path, name: str, subject: str, names: Sequence[str] = ()) -> None:
    extensions: list[str] = [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
    ]
    if names:
        extensions.append(f"subjectAltName={','.join(names)}")
    signed: list[str | Path] = ["-CA", pki / "ca.crt", "-CAkey", pki / "ca.key"]
    run(*_request(pki, name, subject), *signed, *(part for each in extensions for part in ("-addext", each)))


def _request(pki: Path, name: str, subject: str) -> list[str | Path]:
    key: list[str | Path] = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-keyout",
        pki / f"{name}.key",
    ]
    return ["openssl", "req", "-x509", *key, "-days", "3650", "-subj", subject, "-out", pki / f"{name}.crt"]


def _service_account_key(pki: Path) -> None:
    run("openssl", "genrsa", "-out", pki / "sa.key", "2048")
    run("openssl", "rsa", "-in", pki / "sa.key", "-pubout", "-out", pki / "sa.pub")


def _kubeconfig(layout: Layout, name: str) -> None:
    def data(file: str) -> str:
        return b64encode((layout.pki / file).read_bytes()).decode()

    cluster = {"server": layout.server, "certificate-authority-data": data("ca.crt")}
    user = {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "everesthood-test", "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": "everesthood-test", "context": {"cluster": "everesthood-test", "user": name}}],
        "current-context": "everesthood-test",
    }
    file = layout.pki / f"{name}.conf"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config, indent=1))
