"""How soon the first step of a run begins for which no worker is there.

On a real node that has the image: from the request's acceptance (PostgreSQL's clock) to the start of its first step
(the worker's clock, the same machine). The peer is a bare Deployment of the same image that runs `sleep`,
taking turns with us: from `kubectl scale` 0 → 1 to the running container. The difference is ours.
"""

import argparse
import statistics
import time
from datetime import datetime

from demo import bed
from demo.installation import IMAGE, ORGANIZATION, Installation
from demo.tools import Tools
from tests.cluster.locks import locked
from tests.cluster.progress import say
from tests.support.marketplace import Marketplace, marketplace, until

AGENT = """\
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentTemplate
metadata: {name: tidal, namespace: acme}
spec:
  displayName: Tidal
  steps:
    - name: begin
      transform: {value: "true"}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: tidal, namespace: acme}
spec:
  templateRef: {name: tidal}
  workers:
    autoscaling: {minReplicas: 0, maxReplicas: 2, idleSeconds: 5}
"""
LABEL = "agents.everesthood.io/instance=tidal"
GOES_SECONDS = 120.0
BARE = f"""\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: bare, namespace: default}}
spec:
  replicas: 0
  selector: {{matchLabels: {{app: bare}}}}
  template:
    metadata: {{labels: {{app: bare}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - {{name: bare, image: "{IMAGE}", imagePullPolicy: IfNotPresent, command: [sleep, "3600"]}}
"""


def pods(tools: Tools, namespace: str, label: str) -> int:
    return len(tools.items("pods", "-n", namespace, "-l", label))


def wake(tools: Tools, api: Marketplace) -> tuple[float, float]:
    """Return the seconds from acceptance to the claim, and to the start of the first step."""
    until(lambda: not pods(tools, ORGANIZATION, LABEL), seconds=GOES_SECONDS, what="no worker")
    time.sleep(3)
    run = api.finished(api.start("tidal", {}))
    accepted, claimed = (datetime.fromisoformat(run[name]) for name in ("createdAt", "startedAt"))
    begun = datetime.fromisoformat(run["steps"][0]["startedAt"])
    return (claimed - accepted).total_seconds(), (begun - accepted).total_seconds()


def bare(tools: Tools) -> float:
    """Return the seconds from `kubectl scale` to a running container of the bare Deployment."""
    until(lambda: not pods(tools, "default", "app=bare"), seconds=60, what="no bare pod")
    began = time.monotonic()
    tools.kubectl("scale", "deploy/bare", "--replicas=1")
    tools.kubectl(
        *("wait", "pod", "-l", "app=bare", "--timeout=60s"),
        "--for=jsonpath={.status.containerStatuses[0].state.running}",
    )
    took = time.monotonic() - began
    tools.kubectl("scale", "deploy/bare", "--replicas=0")
    return took


def row(what: str, seconds: list[float]) -> str:
    return f"{what:<58}{statistics.median(seconds):>8.2f}{max(seconds):>8.2f}"


def measure(tools: Tools, installation: Installation, count: int) -> None:
    installation.install()
    installation.apply_samples("release-digest")
    for manifest in (AGENT, BARE):
        tools.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    installation.wait_ready("tidal")
    ours, claims, theirs = [], [], []
    with marketplace(tools) as api:
        for _ in range(count):
            theirs.append(bare(tools))
            claimed, begun = wake(tools, api)
            claims.append(claimed)
            ours.append(begun)
    print(f"{count} wakes from no worker".ljust(58) + f"{'median s':>8}{'max s':>8}")
    print(row("run accepted → claimed", claims))
    print(row("run accepted → first step starts (target ≤ 4 s)", ours))
    print(row("bare Deployment: kubectl scale → container runs", theirs))
    print(f"ratio of the medians {statistics.median(ours) / statistics.median(theirs):.2f}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--wakes", type=int, default=5)
    chosen = parser.parse_args()
    with locked("cluster-in-use", busy="another run uses the cluster; this one begins when that ends"):
        cluster = bed.choose_cluster()
        bed.check_own(cluster)
        cluster.stop()
        try:
            cluster.start()
            say("images of this checkout, onto the node")
            images = bed.load_images(cluster)
            tools = bed.tools_of(cluster)
            measure(tools, Installation(tools=tools, images=images), chosen.wakes)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
