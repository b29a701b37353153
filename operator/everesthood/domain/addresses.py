"""Which IP addresses a worker may connect to, judged for each address that a name resolves to.

`hosts.is_public` says what is on the internet. Here stands what may not be reached even where the
platform opened a host inside the cluster: the machine's own network and the clouds' metadata.
"""

import ipaddress
from typing import Final

from everesthood.domain.hosts import Address, is_public

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_NEVER_V4: Final = tuple(
    ipaddress.IPv4Network(net)
    for net in (
        "0.0.0.0/8", "169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.0/24",
        "224.0.0.0/3",
    )
)  # fmt: skip
_INSIDE_V6: Final = (ipaddress.IPv6Network("fc00::/7"), ipaddress.IPv6Network("::1/128"))
_NEVER_V6: Final = ipaddress.IPv6Network("fd00:ec2::/32")


def refusal(address: str, *, is_internal_host: bool) -> str | None:
    """Return why the address may not be connected to, as the end of a sentence, or None."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return "is not an address"
    plain = _unwrapped(parsed)
    if is_public(plain) or (is_internal_host and _is_inside(plain)):
        return None
    return "is an internal address"


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that a NAT64 network would reach; its DNS writes public hosts so."""
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_inside(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in net for net in _NEVER_V4)
    if address.scope_id is not None or address in _NEVER_V6:
        return False
    return any(address in net for net in _INSIDE_V6)
