"""Addresses that no agent may connect to, whatever name leads there."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.domain.addresses import refusal

NEVER = [
    "169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0",
    "224.0.0.1", "255.255.255.255", "::", "fe80::1", "ff02::1", "fd00:ec2::254", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::", "2001:0:a9fe:a9fe::1", "fd00::1%eth0",
    "fe80::1%1", "not-an-address", "", "0xA9FEA9FE", "2852039166", "127.1",
]  # fmt: skip
INSIDE = ["10.0.0.1", "10.96.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "100.64.0.1",
          "::1", "fd12:3456::1", "64:ff9b::a00:1"]  # fmt: skip
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"]
WRAPPED = ["::ffff:10.0.0.1", "2002:a00:1::", "::10.0.0.1", "2001:db8::1", "198.18.0.1", "203.0.113.9"]


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_the_local_link_are_out_of_reach_even_for_opened_hosts(address: str) -> None:
    """No name, however opened, leads to metadata, the local link, or anything odd."""
    assert refusal(address, is_internal_host=False)
    assert refusal(address, is_internal_host=True)


@pytest.mark.parametrize("address", INSIDE)
def test_the_cluster_is_reachable_for_opened_hosts_only(address: str) -> None:
    """An address inside the cluster is refused unless the platform opened the host."""
    assert refusal(address, is_internal_host=False) == "is an internal address"
    assert refusal(address, is_internal_host=True) is None


@pytest.mark.parametrize("address", WRAPPED)
def test_an_address_in_wrapping_is_refused(address: str) -> None:
    """Mapped, tunnelled, documentation and benchmark addresses are no way in."""
    assert refusal(address, is_internal_host=False)


@pytest.mark.parametrize("address", PUBLIC)
def test_the_internet_is_reachable(address: str) -> None:
    """Public addresses are allowed, also as a NAT64 network writes them."""
    assert refusal(address, is_internal_host=False) is None


@given(st.integers(0, 2**32 - 1))
def test_wrapping_never_opens_what_is_shut(number: int) -> None:
    """Whatever form an IPv4 address is wrapped in, it is refused if it is refused plain."""
    plain = ipaddress.IPv4Address(number)
    if refusal(str(plain), is_internal_host=False) is None:
        return

    forms = [f"::ffff:{plain}", f"::{plain}", str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) | number)),
             str(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))]  # fmt: skip
    assert all(refusal(form, is_internal_host=False) for form in forms)


@given(st.ip_addresses())
def test_what_python_knows_as_private_is_refused(address: object) -> None:
    """Every address that is link-local, multicast, private, reserved or loopback is refused."""
    assert isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address))
    shut = address.is_private or address.is_link_local or address.is_multicast or address.is_loopback
    if shut and not (
        isinstance(address, ipaddress.IPv6Address) and address in ipaddress.ip_network("64:ff9b::/96")
    ):
        assert refusal(str(address), is_internal_host=False)
