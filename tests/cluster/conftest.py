"""What the tests of the control plane share."""

import asyncio

import pytest
from tests.cluster.fixtures import Cluster
from tests.support.controller import install_crds


@pytest.fixture(scope="session")
def kubeconfig(cluster: Cluster) -> str:
    """Return the administrator's kubeconfig of a cluster that serves our kinds."""
    path = str(cluster.kubeconfig)
    asyncio.run(install_crds(path))
    return path
