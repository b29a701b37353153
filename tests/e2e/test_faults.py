"""Accepted means durable: whatever dies, a run that was accepted ends, and nothing finished is repeated."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from demo.installation import NAMESPACE, ORGANIZATION, Installation
from demo.tools import ToolFailed, Tools
from tests.cluster.fixtures import Cluster
from tests.support import node
from tests.support.marketplace import Marketplace, hits, until

RUNS = 12


def worker(tools: Tools, instance: str) -> str:
    """Return the uid of the worker pod of an instance."""
    label = f"agents.everesthood.io/instance={instance}"
    (pod,) = [
        p
        for p in tools.items("pods", "-n", ORGANIZATION, "-l", label)
        if "deletionTimestamp" not in p["metadata"]
    ]
    return str(pod["metadata"]["uid"])


def scale(tools: Tools, target: str, replicas: int) -> None:
    tools.kubectl("-n", NAMESPACE, "scale", target, f"--replicas={replicas}")
    tools.kubectl("-n", NAMESPACE, "rollout", "status", target, "--timeout=120s")


@contextmanager
def away(tools: Tools, target: str, replicas: int) -> Iterator[None]:
    """Take a process away for as long as the block lasts."""
    scale(tools, target, 0)
    name = target.partition("-")[2]
    try:
        tools.kubectl(
            *("-n", NAMESPACE, "wait", "--for=delete", "pod", "--timeout=90s"),
            *("-l", f"app.kubernetes.io/component={name}"),
        )
        yield
    finally:
        scale(tools, target, replicas)


def test_a_run_goes_on_after_its_worker_is_killed(
    everesthood: Installation, api: Marketplace, cluster: Cluster
):
    """A worker dies without a word in the middle of a run; the next one goes on from the last checkpoint."""
    run = api.start("steady", {"key": "kill", "seconds": 20})
    until(lambda: hits(everesthood.tools).get("kill-second"), seconds=30, what="the second step")

    node.kill(cluster.provider, worker(everesthood.tools, "steady"))
    finished = api.finished(run, seconds=120)

    counted = hits(everesthood.tools)
    assert finished["state"] == "succeeded", finished
    assert finished["attempt"] == 2
    assert counted["kill-first"] == 1
    assert counted["kill-third"] == 1


def test_a_step_that_must_not_be_repeated_is_not(
    everesthood: Installation, api: Marketplace, cluster: Cluster
):
    """A worker dies during an order; nobody knows whether it was placed, so a person decides."""
    run = api.start("once", {"key": "kill", "seconds": 20})
    until(lambda: hits(everesthood.tools).get("kill-order"), seconds=30, what="the order")

    node.kill(cluster.provider, worker(everesthood.tools, "once"))
    finished = api.finished(run, seconds=120)

    assert (finished["state"], finished["reason"]) == ("ambiguous", "OutcomeUnknown")
    assert hits(everesthood.tools)["kill-order"] == 1


def empty_redis(tools: Tools) -> None:
    """Remove every key, as an operator with the admin's password would."""
    secret = tools.get("secret", "everesthood-redis", "-n", NAMESPACE)["data"]["admin-password"]
    script = (
        "import base64, socket, sys\n"
        f"password = base64.b64decode('{secret}').decode()\n"
        "s = socket.create_connection(('everesthood-redis', 6379), 5)\n"
        "s.sendall(f'AUTH default {password}\\r\\nFLUSHALL\\r\\n'.encode())\n"
        "got = b''\n"
        "while got.count(b'+OK') < 2:\n"
        "    more = s.recv(100)\n"
        "    got += more or sys.exit('Redis refused')\n"
    )
    tools.kubectl(
        "-n", NAMESPACE, "exec", "-i", "deploy/everesthood-gateway", "--", "python3", "-", stdin=script
    )


def restart_redis(tools: Tools) -> None:
    """Replace the server; it keeps nothing, not even its users."""
    tools.kubectl("-n", NAMESPACE, "rollout", "restart", "deploy/everesthood-redis")
    tools.kubectl("-n", NAMESPACE, "rollout", "status", "deploy/everesthood-redis", "--timeout=120s")


@pytest.mark.parametrize("disaster", [empty_redis, restart_redis])
def test_runs_survive_the_loss_of_redis(everesthood: Installation, api: Marketplace, disaster):
    """Bells are lost while runs wait; all of them finish, each once."""
    tools = everesthood.tools
    key = disaster.__name__.replace("_", "-")
    tools.kubectl("-n", ORGANIZATION, "scale", "agentinstance/steady", "--replicas=0")
    tools.kubectl(
        *("-n", ORGANIZATION, "wait", "--for=delete", "pod", "--timeout=90s"),
        *("-l", "agents.everesthood.io/instance=steady"),
    )
    runs = [api.start("steady", {"key": f"{key}-{n}", "seconds": 0}) for n in range(RUNS)]

    disaster(tools)
    tools.kubectl("-n", ORGANIZATION, "scale", "agentinstance/steady", "--replicas=1")
    states = {api.finished(run, seconds=120)["state"] for run in runs}

    assert states == {"succeeded"}
    assert {hits(tools)[f"{key}-{n}-third"] for n in range(RUNS)} == {1}


@contextmanager
def record_frozen(tools: Tools, cluster: Cluster) -> Iterator[None]:
    """PostgreSQL holds its connections and answers nothing."""
    (pod,) = tools.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=postgresql")
    with node.frozen(cluster.provider, pod["metadata"]["uid"]):
        yield


@contextmanager
def record_gone(tools: Tools, _cluster: Cluster) -> Iterator[None]:
    """PostgreSQL's pod does not exist."""
    with away(tools, "statefulset/everesthood-postgresql", 1):
        yield


@pytest.mark.parametrize("outage", [record_frozen, record_gone])
def test_without_the_record_nothing_is_accepted(
    everesthood: Installation, api: Marketplace, cluster: Cluster, outage
):
    """While PostgreSQL does not answer, a caller is told to come back; afterwards all goes on by itself."""
    before = api.start("steady", {"key": f"before-{outage.__name__}", "seconds": 5})
    with outage(everesthood.tools, cluster):
        refused = api.post("steady", {"key": "during", "seconds": 0})

    def accepted() -> str | None:
        answer = api.post("steady", {"key": "after", "seconds": 0})
        return answer.json()["id"] if answer.is_success else None

    after = until(accepted, seconds=60, what="the record to be back")

    assert refused.status_code == httpx2.codes.SERVICE_UNAVAILABLE, refused.text
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.json()["reason"] == "RecordUnavailable"
    assert [api.finished(run, seconds=120)["state"] for run in (before, after)] == ["succeeded"] * 2


def test_without_the_webhook_only_our_kinds_are_refused(everesthood: Installation):
    """No manifest slips past the rules while the webhook is away, and the rest of the cluster goes on."""
    tools = everesthood.tools
    patch = json.dumps({"spec": {"displayName": "Renamed"}})
    with away(tools, "deploy/everesthood-admission", 2):
        with pytest.raises(ToolFailed, match=r"validate\.agents\.everesthood\.io"):
            tools.kubectl("-n", ORGANIZATION, "patch", "agentinstance", "caller", "--type=merge", "-p", patch)
        tools.kubectl("-n", ORGANIZATION, "create", "configmap", "bystander")
        tools.kubectl("-n", ORGANIZATION, "delete", "configmap", "bystander")

    until(lambda: _patched(tools, patch), seconds=60, what="the webhook to be back")


def _patched(tools: Tools, patch: str) -> bool:
    try:
        tools.kubectl("-n", ORGANIZATION, "patch", "agentinstance", "caller", "--type=merge", "-p", patch)
    except ToolFailed:
        return False
    return True


def test_a_controller_killed_at_work_leaves_nothing_half_done(everesthood: Installation, cluster: Cluster):
    """The next controller finishes what the last one began, and makes nothing twice."""
    tools = everesthood.tools
    label = "agents.everesthood.io/instance=caller"

    def deployments() -> set[str]:
        return {d["metadata"]["uid"] for d in tools.items("deployments", "-n", ORGANIZATION, "-l", label)}

    before = deployments()
    (pod,) = tools.items("pods", "-n", NAMESPACE, "-l", "app.kubernetes.io/component=controller")
    tools.kubectl("-n", ORGANIZATION, "delete", "deployment", "-l", label, "--wait=false")
    node.kill(cluster.provider, pod["metadata"]["uid"])
    after = until(lambda: deployments() - before, seconds=90, what="a new Deployment")
    tools.kubectl("-n", ORGANIZATION, "rollout", "status", "deployment", "-l", label, "--timeout=120s")
    everesthood.wait_ready("caller")

    assert len(after) == 1
    assert deployments() == after
