"""One installation on a real node for all end-to-end tests; each test brings its own agents."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from demo import bed
from demo.installation import AGENTS, NAMESPACE, ROOT, Installation
from demo.tools import Tools
from tests.cluster.fixtures import Cluster
from tests.support.marketplace import Marketplace, marketplace

HERE = Path(__file__).resolve().parent
# Tests of the control plane, in the same run, apply the types by themselves.
SHARED = ("--take-ownership", "--force-conflicts")
VALUES = (ROOT / "demo/values.yaml", HERE / "values.yaml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def tools(cluster: Cluster) -> Tools:
    """Return kubectl, helm and our command line for the cluster, whose node has this checkout's images."""
    bed.check_own(cluster.provider)
    bed.load_images(cluster.provider)
    return bed.tools_of(cluster.provider)


@pytest.fixture(scope="session")
def installed(tools: Tools) -> Installation:
    """Install the chart with the samples' stand-in server, and wait until all is ready."""
    installation = Installation(tools=tools, values=VALUES, flags=SHARED)
    installation.install()
    installation.label_namespace()
    installation.apply_samples()
    apply_counter(tools)
    installation.apply(HERE / "agents")
    installation.wait_ready(*AGENTS, "steady", "once", "caller")
    return installation


@pytest.fixture
def everesthood(installed: Installation) -> Installation:
    """Return the installation, with every process ready before the test."""
    for process in ("controller", "admission", "gateway", "web", "scheduler", "redis"):
        installed.tools.kubectl(
            "-n", NAMESPACE, "rollout", "status", f"deploy/everesthood-{process}", "--timeout=120s"
        )
    return installed


@pytest.fixture
def api(everesthood: Installation) -> Iterator[Marketplace]:
    """Return the REST API."""
    with marketplace(everesthood.tools) as opened:
        yield opened


def apply_counter(tools: Tools) -> None:
    """Run the counting server."""
    tools.kubectl("apply", "--server-side", "-f", str(HERE / "counter.yaml"))
    program = f"--from-file={HERE / 'counter.py'}"
    manifest = tools.kubectl(
        *("-n", "counter", "create", "configmap", "counter", program, "--dry-run=client", "-o", "yaml")
    )
    tools.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    tools.kubectl("-n", "counter", "rollout", "status", "deploy/counter", "--timeout=120s")
