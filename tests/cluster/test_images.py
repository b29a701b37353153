"""What is in the image that every process of ours runs from."""

import re
import tarfile

import pytest
from tests.cluster import images, provider
from tests.cluster.embedded import EmbeddedCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
_OURS = ("opt/everesthood/", "usr/lib/python3")
_NEVER_RUN = re.compile(r"/(tests?|idlelib|lib2to3|ensurepip|turtledemo)/")


def test_all_that_runs_is_compiled() -> None:
    """Nothing is compiled at a start, which a read-only root could not keep: bytecode is in the image."""
    if not isinstance(provider.choose(), EmbeddedCluster):
        pytest.skip("the layers looked at are those that buildah makes for the embedded cluster")
    image = images.build_operator_image()
    found: set[str] = set()
    for layer in image.layers:
        with tarfile.open(image.blob(layer)) as content:
            found |= {entry.name for entry in content if entry.name.startswith(_OURS)}

    sources = {name for name in found if name.endswith(".py") and not _NEVER_RUN.search(name)}
    bytecode = {name for name in found if name.endswith(".pyc")}
    compiled = {re.sub(r"__pycache__/([^/]+)\.cpython-\d+\.pyc$", r"\1.py", name) for name in bytecode}
    assert len(sources) > 1000
    assert sorted(sources - compiled) == []
