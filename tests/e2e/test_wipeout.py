"""Removal of the installation, last of all: what belongs to people stays, and it can come back."""

from demo.installation import NAMESPACE, ORGANIZATION, Installation


def test_agents_outlive_the_installation(everesthood: Installation):
    """helm uninstall keeps the types and everyone's agents; installing again brings them back to work."""
    tools = everesthood.tools
    before = {i["metadata"]["uid"] for i in tools.items("agentinstances", "-n", ORGANIZATION)}

    tools.helm("uninstall", "everesthood", "--namespace", NAMESPACE, "--wait", "--timeout", "3m")
    kept = {i["metadata"]["uid"] for i in tools.items("agentinstances", "-n", ORGANIZATION)}
    everesthood.install()
    everesthood.wait_ready("steady")

    assert kept == before
    assert everesthood.run("expense-check")["state"] == "succeeded"
