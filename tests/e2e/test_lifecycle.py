"""Deletion leaves nothing, and an upgrade that changes nothing restarts nothing."""

import base64

import pytest
from demo.installation import NAMESPACE, ORGANIZATION, Installation
from demo.tools import ToolFailed, Tools
from tests.support.marketplace import Marketplace, until

CHILDREN = "deployments,replicasets,pods,serviceaccounts,networkpolicies,poddisruptionbudgets"
PASSING = """\
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentTemplate
metadata: {name: passing, namespace: acme}
spec:
  displayName: Passing
  steps:
    - name: answer
      transform: {value: "{'answer': 42}"}
---
apiVersion: agents.everesthood.io/v1alpha1
kind: AgentInstance
metadata: {name: passing, namespace: acme}
spec:
  templateRef: {name: passing}
"""


def broker_users(tools: Tools) -> str:
    """Return the users of Redis, as its admin sees them."""
    secret = tools.get("secret", "everesthood-redis", "-n", NAMESPACE)["data"]["admin-password"]
    script = (
        "import socket\n"
        "s = socket.create_connection(('everesthood-redis', 6379), 5)\n"
        f"s.sendall(b'AUTH default {base64.b64decode(secret).decode()}\\r\\nACL USERS\\r\\nPING\\r\\n')\n"
        "got = b''\n"
        "while b'+PONG' not in got:\n"
        "    got += s.recv(65536)\n"
        "print(got.decode())\n"
    )
    return tools.kubectl(
        "-n", NAMESPACE, "exec", "-i", "deploy/everesthood-gateway", "--", "python3", "-", stdin=script
    )


def test_a_deleted_instance_leaves_nothing_behind(everesthood: Installation, api: Marketplace):
    """After kubectl delete there is no pod, account, policy, queue user or claimable run of the instance."""
    tools = everesthood.tools
    tools.kubectl("apply", "--server-side", "-f", "-", stdin=PASSING)
    everesthood.wait_ready("passing")
    uid = tools.get("agentinstance", "passing", "-n", ORGANIZATION)["metadata"]["uid"]
    assert api.finished(api.start("passing", {}))["output"] == {"answer": 42}
    assert uid in broker_users(tools)

    tools.kubectl("-n", ORGANIZATION, "delete", "agentinstance", "passing", "--timeout=60s")
    label = "agents.everesthood.io/instance=passing"
    until(
        lambda: not tools.items(CHILDREN, "-n", ORGANIZATION, "-l", label),
        seconds=90,
        what="its children to go",
    )
    until(lambda: uid not in broker_users(tools), seconds=30, what="its broker user to go")

    assert api.post("passing", {}).status_code == 404
    tools.kubectl("-n", ORGANIZATION, "delete", "agenttemplate", "passing", "--timeout=60s")
    assert "passing" not in tools.kubectl("-n", ORGANIZATION, "get", "controllerrevisions", "-o", "name")


def test_a_template_in_use_is_not_deleted(everesthood: Installation):
    """Whoever deletes a template that others run is told who they are."""
    with pytest.raises(ToolFailed, match="steady"):
        everesthood.tools.kubectl("-n", ORGANIZATION, "delete", "agenttemplate", "steady")


def test_an_upgrade_without_a_change_restarts_nothing(everesthood: Installation):
    """Keys, passwords and the certificate are kept, so no pod of ours is replaced."""
    tools = everesthood.tools

    def state() -> tuple[dict[str, str], dict[str, object]]:
        pods = tools.items("pods", "-n", NAMESPACE)
        secrets = tools.items("secrets", "-n", NAMESPACE, "-l", "app.kubernetes.io/managed-by=Helm")
        return (
            {p["metadata"]["uid"]: p["metadata"]["name"] for p in pods},
            {s["metadata"]["name"]: s["data"] for s in secrets},
        )

    before = state()
    everesthood.install()

    assert state() == before
