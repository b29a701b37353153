"""`python -m demo up`: a Kubernetes, the chart, the samples, an agent at work; `down` removes every trace."""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cluster.progress import say

from demo import bed
from demo.installation import AGENTS, Installation
from demo.tools import ToolFailed, Tools

SHOWN = "support-triage"


def main() -> int:
    """Do what the arguments say; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("verb", choices=("up", "down"))
    try:
        return {"up": up, "down": down}[parser.parse_args().verb]()
    except (ToolFailed, bed.BedFailed) as error:
        say(f"\nThe demo stopped: {error}")
        return 1


def up() -> int:
    """Bring everything up, run an agent, and say what to try next."""
    begun = time.monotonic()
    cluster = bed.choose_cluster()
    bed.check_images(cluster)
    with phase("a Kubernetes"):
        cluster.start()
    guest = bed.guest_of(cluster)
    if guest:
        with phase("namespaces for the demo in this cluster"):
            guest.arrive()
    with phase("images of this checkout, onto the node"):
        images = bed.load_images(cluster)
    tools = bed.tools_of(cluster)
    everesthood = Installation(tools=tools, images=images)
    with phase("the chart, until every process is ready"):
        everesthood.install()
        everesthood.label_namespace()
    with phase(f"the samples {', '.join(AGENTS)}, until all are Ready"):
        everesthood.apply_samples()
        everesthood.wait_ready()
    with phase(f"a run of {SHOWN}"):
        run = everesthood.run(SHOWN)
    shown = f"{SHOWN} {run['state']}; its output:\n{json.dumps(run['output'], indent=2)}"
    sys.stdout.write(f"\n{shown}\n{closing(tools, time.monotonic() - begun)}\n")
    return 0


def down() -> int:
    """Remove every trace."""
    cluster = bed.choose_cluster()
    guest = bed.guest_of(cluster)
    with phase("everything away"):
        if guest:
            cluster.start()
            guest.leave()
        cluster.stop()
    return 0


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Say what is waited for, and afterwards how long it took."""
    say(f"→ {name}")
    begun = time.monotonic()
    yield
    say(f"  {time.monotonic() - begun:.1f} s")


def closing(tools: Tools, seconds: float) -> str:
    """Return the addresses and the next three commands."""
    return f"""
Ready after {seconds:.0f} s. In this shell:

  export KUBECONFIG={tools.kubeconfig}
  export PATH={tools.kubectl_path.parent}:{tools.cli_path.parent}:$PATH

and then, for example:

  kubectl get everesthood -n acme
  everesthood run expense-check -n acme --input @manifests/samples/inputs/expense-check.json --follow
  everesthood runs list -n acme

REST API and its documentation: kubectl -n everesthood-system port-forward svc/everesthood-web 8080:80,
then http://127.0.0.1:8080/docs. `{_down_command()}` removes everything."""


def _down_command() -> str:
    """Return how to remove this demo: said of which cluster, where that was said."""
    said = [
        f"{name}={shlex.quote(os.environ[name])}" for name in ("CLUSTER", "CONTEXT") if os.environ.get(name)
    ]
    return " ".join(["make demo-down", *said])


if __name__ == "__main__":
    sys.exit(main())
