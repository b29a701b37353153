"""Pods for the tests of the test bed: small, Python, and allowed under restricted pod security."""

import json
from typing import Any

from tests.cluster.settings import BASE_IMAGE

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
SLEEP = "import time; time.sleep(86400)"
SERVE = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, h.ThreadingHTTPServer, port=8080)"


def pod(name: str, program: str = SLEEP, *, security: dict[str, Any] | None = None) -> str:
    """Return the manifest of a pod that runs a line of Python."""
    container = {
        "name": "main",
        "image": BASE_IMAGE,
        "command": ["python3", "-uc", program],
        "securityContext": RESTRICTED if security is None else security,
    }
    spec = {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
    }
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": spec,
    }
    return json.dumps(body)


def service(name: str) -> str:
    """Return the manifest of a Service for the pod of the same name."""
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    return json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})


def policy(name: str, spec: dict[str, Any]) -> str:
    """Return the manifest of a NetworkPolicy."""
    meta = {"name": name}
    return json.dumps(
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec},
    )


def fetch(url: str) -> str:
    """Return a Python program that exits with 0 only when the URL answers."""
    return f"import urllib.request as r; r.urlopen({url!r}, timeout=2)"
