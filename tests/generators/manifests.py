"""Manifests that are made from something else: install.yaml from the chart, Argo CD's from health.lua."""

import textwrap

from tests.support.helm import ROOT, template

KINDS = ("AgentTemplate", "AgentInstance", "AgentCredential")
INSTALL_VALUES = (
    "certManager.enabled=true",
    "keys.existingSecret=everesthood-keys",
    "postgresql.existingSecret=everesthood-postgresql",
    "redis.existingSecret=everesthood-redis",
)
INSTALL_HEAD = """\
# Everesthood without Helm. Generated from charts/everesthood by `make generate`.
#
# It holds no key and no certificate, since a file that everyone has would make them everyone's:
#   1. cert-manager must be in the cluster; it issues the webhook's certificate.
#   2. Put your image in place of everesthood:0.1.0, built from operator/Dockerfile.
#   3. kubectl create namespace everesthood-system
#   4. manifests/keys.sh | kubectl create -f -
#   5. kubectl apply --server-side -f manifests/install.yaml
#
# The record is the trial PostgreSQL: one pod, no backup. For anything else use the chart.
"""
ARGOCD_HEAD = """\
# Merge into the ConfigMap argocd-cm. Generated from health.lua by `make generate`.
apiVersion: v1
kind: ConfigMap
metadata:
  name: argocd-cm
  namespace: argocd
data:
"""


def files() -> dict[str, str]:
    """Return the generated files."""
    settings = [part for value in INSTALL_VALUES for part in ("--set", value)]
    return {
        "manifests/install.yaml": INSTALL_HEAD + template(*settings),
        "manifests/argocd/argocd-cm.yaml": ARGOCD_HEAD + _health(),
    }


def _health() -> str:
    script = textwrap.indent((ROOT / "manifests/argocd/health.lua").read_text(), "    ")
    return "".join(
        f"  resource.customizations.health.agents.everesthood.io_{kind}: |\n{script}" for kind in KINDS
    )
