"""Hosts and addresses that agents may and may not call."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.domain import hosts

INTERNAL = [
    "169.254.169.254", "[::ffff:169.254.169.254]", "0xA9FEA9FE", "2852039166", "127.1", "0", "[::]",
    "[fd00:ec2::254]", "100.100.100.200", "168.63.129.16", "192.0.0.192", "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::]", "10.0.0.1", "172.16.5.4", "192.168.1.1", "0251.0376.0251.0376",
    "169.254.43518", "[::1]", "[fe80::1%eth0]", "224.0.0.1", "255.255.255.255", "0x7f.1",
    "localhost", "LOCALHOST", "kubernetes", "kubernetes.default.svc", "a.b.svc.cluster.local",
    "a.b.svc.example.org", "metadata.google.internal", "printer.local", "x.localhost", "db.pod.cluster",
    "localhost.", "1-2-3-4.ns.pod.cluster.local",
]  # fmt: skip


@pytest.mark.parametrize("host", INTERNAL)
def test_internal_hosts_are_known_in_every_disguise(host):
    """Metadata services, private networks and cluster names are recognised however they are written."""
    assert hosts.internal(host)


@pytest.mark.parametrize(
    "host", ["api.example.com", "8.8.8.8", "[2606:4700::1111]", "svc.example.com", "example.internal.dev"]
)
def test_public_hosts_are_left_alone(host):
    """Names and addresses of the internet are fine."""
    assert hosts.internal(host) is None


def test_a_public_address_must_be_written_plainly():
    """A disguised address is refused even when it is public."""
    assert hosts.internal("0x08080808") == "is an odd way to write 8.8.8.8"
    assert hosts.internal("8.8.2056") == "is an odd way to write 8.8.8.8"


def test_text_that_only_looks_numeric_is_a_name():
    """A resolver that refuses a form leaves a name, which then is no address."""
    assert hosts.parse_address("999.999.999.999") is None
    assert hosts.parse_address("1.2.3.example") is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example.com/v1/{{ input.q }}", "api.example.com"),
        ("https://api.example.com", "api.example.com"),
        ("http://api.example.com:80/", "api.example.com"),
        ("https://API.Example.com:8443?x", "api.example.com:8443"),
        ("https://api.example.com./", "api.example.com"),
        ("http://[::1]:8080/", "[::1]:8080"),
        ("https://[::1]#x", "[::1]"),
    ],
)
def test_a_literal_host_is_read(url, shown):
    """The host of a URL is known although its path is a template."""
    endpoint = hosts.literal_endpoint(url)
    assert endpoint is not None
    assert endpoint.shown == shown


@pytest.mark.parametrize(
    "url",
    [
        "{{ input.url }}",
        "https://{{ input.host }}/",
        "https://api{{ input.n }}.example.com/",
        "ht{{ x }}",
        "https://api.example.com{{ input.path }}",
    ],
)
def test_a_host_made_by_a_template_is_left_to_the_worker(url):
    """What only the variables will tell is checked when the call is made."""
    assert hosts.literal_endpoint(url) is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://x.example.com/", "must start with http"),
        ("//x.example.com", "must start with http"),
        ("gopher://{{ input.x }}", "must start with http"),
        ("https://user@x.example.com/", "user name"),
        ("https://user:pw@{{ input.host }}/", "user name"),
        ("https://x.example.com/a b", "spaces"),
        ("https://x.example.com\n/", "spaces"),
        ("https:\\\\x.example.com", "backslashes"),
        ("https:///path", "must name a host"),
        ("https://./", "must name a host"),
        ("https://x.example.com:http/", "no valid port"),
        ("https://x.example.com:99999/", "no valid port"),
        ("https://x.example.com:0/", "no valid port"),
        ("https://x.example.com:٣/", "no valid port"),
    ],
)
def test_a_url_that_no_step_may_use_is_explained(url, says):
    """A URL that could confuse a client is refused with its fault."""
    with pytest.raises(hosts.BadUrl, match=says):
        hosts.literal_endpoint(url)


@pytest.mark.parametrize(
    ("listed", "url", "allowed"),
    [
        ("api.example.com", "https://api.example.com/", True),
        ("api.example.com", "http://api.example.com/", True),
        ("api.example.com", "https://api.example.com:8443/", False),
        ("api.example.com:8443", "https://api.example.com:8443/", True),
        ("api.example.com:8443", "https://api.example.com/", False),
        ("api.example.com:443", "https://api.example.com/", True),
        ("example.com", "https://api.example.com/", False),
    ],
)
def test_a_list_allows_a_host_on_its_own_port(listed, url, allowed):
    """A host stands for its scheme's own port; any other port must be written, and nothing is a suffix."""
    endpoint = hosts.literal_endpoint(url)
    assert endpoint is not None
    assert hosts.allows([listed], endpoint) is allowed


def test_the_host_of_an_entry():
    """The port of a list entry is cut off."""
    assert hosts.host_part("a.example.com:443") == "a.example.com"
    assert hosts.host_part("a.example.com") == "a.example.com"


@given(st.ip_addresses(v=4))
def test_no_private_address_passes_as_mapped(address):
    """An IPv4 address inside an IPv6 one is never more public than by itself."""
    assert not hosts.is_public(ipaddress.ip_address(f"::ffff:{address}"))
    if address.is_private or address.is_multicast:
        assert not hosts.is_public(address)


@given(st.text(max_size=40))
def test_no_url_breaks_the_reader(text):
    """Any text is an endpoint, undecided or refused."""
    with contextlib.suppress(hosts.BadUrl):
        endpoint = hosts.literal_endpoint(text)
        assert endpoint is None or endpoint.host
