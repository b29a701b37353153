"""The cluster's own network namespace, and the one link by which the host reaches it."""

from tests.cluster.commands import attempt, run
from tests.cluster.settings import POD_CIDR, SERVICE_CIDR, Layout

# Written by the kubelet for the whole machine, so saved before and restored after.
SYSCTLS = (
    "kernel.panic",
    "kernel.panic_on_oops",
    "vm.overcommit_memory",
    "kernel.keys.root_maxkeys",
    "kernel.keys.root_maxbytes",
)


def create(layout: Layout, *, routes: bool) -> None:
    """Make the namespace; with `routes` the host reaches pods and Services as well."""
    layout.netns.touch()
    # A file of our own instead of `ip netns add`, which would leave a mount on /run/netns.
    run("unshare", f"--net={layout.netns}", "true")
    run("ip", "link", "add", layout.link, "type", "veth", "peer", "name", "node0", "netns", "1")
    run("ip", "link", "set", "node0", "netns", layout.netns)
    run("ip", "addr", "add", f"{layout.host_ip}/24", "dev", layout.link)
    run("ip", "link", "set", layout.link, "up")
    _inside(layout, "ip", "link", "set", "lo", "up")
    _inside(layout, "ip", "addr", "add", f"{layout.node_ip}/24", "dev", "node0")
    _inside(layout, "ip", "link", "set", "node0", "up")
    # The components ask for a default route; it also leads pods to servers on the host.
    _inside(layout, "ip", "route", "add", "default", "via", layout.host_ip)
    _inside(layout, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    _inside(layout, "sysctl", "-qwe", "net.bridge.bridge-nf-call-iptables=1")
    for network in (POD_CIDR, SERVICE_CIDR) if routes else ():
        run("ip", "route", "add", network, "via", layout.node_ip, "dev", layout.link)


def remove(layout: Layout) -> None:
    """Take link, routes and namespace away, as far as they are there."""
    attempt("ip", "link", "del", layout.link)
    attempt("umount", "-l", layout.netns)
    layout.netns.unlink(missing_ok=True)


def save_sysctls(layout: Layout) -> None:
    """Remember the machine's settings that the kubelet is about to change."""
    lines = [f"{name}={run('sysctl', '-n', name).strip()}" for name in SYSCTLS]
    (layout.state / "sysctls").write_text("\n".join(lines))


def restore_sysctls(layout: Layout) -> None:
    """Give the machine its settings back."""
    run("sysctl", "-qw", *(layout.state / "sysctls").read_text().split())


def _inside(layout: Layout, *argv: str) -> None:
    run("nsenter", f"--net={layout.netns}", *argv)
