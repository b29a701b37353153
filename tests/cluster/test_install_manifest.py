"""manifests/install.yaml, as a real API server judges it."""

import subprocess

import pytest
from ruamel.yaml import YAML
from tests.cluster.fixtures import Cluster
from tests.cluster.settings import REPOSITORY

pytestmark = pytest.mark.cluster

INSTALL = REPOSITORY / "manifests/install.yaml"


def test_install_yaml_is_accepted_without_a_warning(cluster: Cluster, namespace: str):
    """Whoever applies the file gets no refusal and no warning, in a namespace under restricted pod security."""
    text = INSTALL.read_text().replace("everesthood-system", namespace)
    # cert-manager's own kinds: its types are not in this cluster.
    ours = [part for part in text.split("\n---\n") if "apiVersion: cert-manager.io/" not in part]
    said = cluster.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors"),
        *("-f", "-"),
        input="\n---\n".join(ours),
    )
    objects = [o for o in YAML(typ="safe").load_all("\n---\n".join(ours)) if o]

    assert len(said.splitlines()) == len(objects)


def test_the_keys_that_the_file_needs_are_made_by_the_script(cluster: Cluster, namespace: str):
    """keys.sh prints every Secret and key that the pods of install.yaml mount."""
    made = subprocess.run(
        [REPOSITORY / "manifests/keys.sh", namespace], capture_output=True, text=True, check=True
    ).stdout
    cluster.kubectl("create", "-f", "-", input=made)
    there = {
        (item["metadata"]["name"], key)
        for item in cluster.get("secrets", "-n", namespace)["items"]
        for key in item["data"]
    }

    assert mounted() <= there


def mounted() -> set[tuple[str, str]]:
    """Return (Secret, key) of what pods mount, without what cert-manager makes."""
    objects = [item for item in YAML(typ="safe").load_all(INSTALL.read_text()) if item]
    volumes = [
        volume["secret"]
        for item in objects
        if item["kind"] in {"Deployment", "StatefulSet", "Job"}
        for volume in item["spec"]["template"]["spec"]["volumes"]
        if "secret" in volume
    ]
    return {
        (secret["secretName"], entry["key"])
        for secret in volumes
        if secret["secretName"] != "everesthood-admission-tls"
        for entry in secret["items"]
    }
