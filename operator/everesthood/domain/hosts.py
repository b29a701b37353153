"""Hosts and addresses: what a URL leads to, and what an agent may never reach by itself.

The rules here look at names and literal addresses. The guarded client asks `is_public` again for
every address that a name resolves to, because a name can lead anywhere.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS: Final = {"http": 80, "https": 443}
_START: Final = re.compile(r"^(?P<scheme>https?)://(?P<authority>[^/?#]*)(?P<end>[/?#]?)")
_NUMERIC: Final = re.compile(r"^(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+)){0,3}$", re.IGNORECASE)
_INTERNAL_SUFFIXES: Final = (
    ".localhost", ".local", ".internal", ".svc", ".cluster.local", ".lan", ".home.arpa", ".intranet"
)  # fmt: skip
_CLUSTER_NAME: Final = re.compile(r"\.(svc|pod)\.")

_PRIVATE_V4: Final = tuple(
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "168.63.129.16/32",
        "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
    )
)  # fmt: skip
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_PRIVATE_V6: Final = tuple(
    ipaddress.IPv6Network(net)
    for net in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "fd00:ec2::/32")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a URL leads."""

    scheme: str
    host: str
    port: int

    @property
    def address(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def shown(self) -> str:
        """Return the host, with its port where that is not the scheme's own."""
        return self.host if self.port == _PORTS[self.scheme] else self.address


class BadUrl(ValueError):  # noqa: N818 - reads as what it is
    """A URL that no step may use; the text says why."""


def literal_endpoint(url: str) -> Endpoint | None:
    """Return where a URL template leads, or None when only its variables will tell.

    Raises BadUrl when no value of the variables could make it acceptable.
    """
    fixed, mark, _ = _until_template(url)
    if mark and not fixed:
        return None
    if any(ord(c) <= 32 or c == "\\" for c in fixed):  # noqa: PLR2004 - space and controls
        raise BadUrl("must not contain spaces, control characters or backslashes")
    start = _START.match(fixed.lower())
    if start is None:
        if mark and "https://".startswith(fixed.lower()):
            return None
        raise BadUrl("must start with http:// or https://")
    if "@" in start["authority"]:
        raise BadUrl("must not contain a user name; name a credential slot instead")
    if mark and not start["end"]:
        return None
    return _endpoint(start["scheme"], start["authority"])


def _until_template(url: str) -> tuple[str, str, str]:
    found = re.search(r"\{\{|\{%|\{#", url)
    if found is None:
        return url, "", ""
    return url[: found.start()], found.group(), url[found.end() :]


def _endpoint(scheme: str, authority: str) -> Endpoint:
    if authority.startswith("["):
        host, _, port = authority.partition("]")
        host, port = host + "]", port.removeprefix(":")
    else:
        host, _, port = authority.partition(":")
    if not host.strip("."):
        raise BadUrl("must name a host")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) <= 65_535):  # noqa: PLR2004
        raise BadUrl(f"has no valid port: {port!r}")
    return Endpoint(scheme=scheme, host=host.rstrip("."), port=int(port or _PORTS[scheme]))


def allows(hosts: Iterable[str], endpoint: Endpoint) -> bool:
    """Return whether a list of `host` and `host:port` has the endpoint.

    `host` alone means the scheme's own port; any other port must be written.
    """
    listed = frozenset(hosts)
    if endpoint.address in listed:
        return True
    return endpoint.host in listed and endpoint.port == _PORTS[endpoint.scheme]


def host_part(entry: str) -> str:
    """Return the host of `host` or `host:port`."""
    return entry.rpartition(":")[0] if re.search(r":[0-9]+$", entry) else entry


def parse_address(host: str) -> Address | None:
    """Return the address that a host literally is, in any form that a resolver accepts."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        pass
    if _NUMERIC.match(host):
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return None


def is_public(address: Address) -> bool:
    """Return whether an address is on the public internet, whatever wraps it."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in net for net in _PRIVATE_V4)
    if address.ipv4_mapped is not None:
        return False
    return address in _GLOBAL_V6 and not any(address in net for net in _PRIVATE_V6)


def internal(host: str) -> str | None:
    """Return why a host is not for agents, as the end of a sentence, or None when it is public."""
    address = parse_address(host)
    if address is not None:
        return _internal_address(host, address)
    name = host.lower().rstrip(".")
    if "." not in name:
        return "is a name inside the cluster or the machine"
    if name.endswith(_INTERNAL_SUFFIXES) or _CLUSTER_NAME.search(name):
        return "is a name inside the cluster or the local network"
    return None


def _internal_address(host: str, address: Address) -> str | None:
    if not is_public(address):
        return "is an internal address"
    if str(address) != host.strip("[]"):
        return f"is an odd way to write {address}"
    return None
