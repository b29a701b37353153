"""Where an agent's URL may lead, judged before anything is resolved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.adapters.outbound import Policy
from everesthood.apis.reasons import Reason
from everesthood.domain.errors import StepFailed
from everesthood.domain.hosts import Endpoint

# A careless platform team's list: everything that an attacker might want is on it.
LISTED = ("example.com", "api.example.com:8443", "169.254.169.254", "metadata.google.internal", "localhost",
          "kubernetes.default.svc", "10.0.0.1", "127.0.0.1", "0", "xn--bcher-kva.example")  # fmt: skip
POLICY = Policy(
    egress=LISTED,
    internal_hosts=frozenset({"standin.standin.svc:8080"}),
    slots={"key": ("example.com",), "inside": ("standin.standin.svc:8080",)},
)

REFUSED = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://0xA9FEA9FE/",
    "http://2852039166/",
    "http://0251.0376.0251.0376/",
    "http://127.1/",
    "http://0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[fd00:ec2::254]/",
    "http://100.100.100.200/",
    "http://168.63.129.16/",
    "http://192.0.0.192/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[fe80::1%25eth0]/",
    "http://[2606:4700:4700::1111%25eth0]/",
    "http://10.0.0.1/",
    "http://127.0.0.1:10250/",
    "http://localhost/",
    "http://LOCALHOST/",
    "https://kubernetes.default.svc/",
    "https://kubernetes.default.svc./",
    "https://kubernetes/",
    "https://metadata.google.internal/",
    "https://standin.standin.svc/",
    "https://standin.standin.svc:8081/",
    "http://ok@169.254.169.254/",
    "https://example.com@evil.example/",
    "https://user:password@example.com/",
    "https://evil.example/?https://example.com/",
    "https://evil.example#@example.com/",
    "https://evil.example\\@example.com/",
    "https://example.com\\.evil.example/",
    "https://example.com.evil.example/",
    "https://evil-example.com/",
    "https://example.com:8443/",
    "http://api.example.com/",
    "https://exam\tple.com/",
    "https://example.com\r\nHost: evil/",
    "https://example.com /",
    "https://ex\u0430mple.com/",
    "https://\uff45xample.com/",
    "https://example\u3002com/",
    "https://example.com:99999/",
    "https://example.com:0/",
    "https://example.com:443:80/",
    "https://example%2ecom/",
    "https://[example.com]/",
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "example.com",
    "",
    "https://",
    "https:///path",
    "https://{{ host }}/",
    "https://example.com/" + "a" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_no_trick_leads_out_of_the_list(url: str) -> None:
    """Metadata, loopback, the cluster, other hosts in disguise: refused, even if carelessly listed."""
    with pytest.raises(StepFailed) as refused:
        POLICY.target(url)

    assert refused.value.reason in {Reason.HOST_REFUSED, Reason.ADDRESS_REFUSED}
    assert not refused.value.transient
    assert "password" not in refused.value.message


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://example.com", "example.com:443"),
        ("https://EXAMPLE.com/a?b=c#d", "example.com:443"),
        ("http://example.com/", "example.com:80"),
        ("https://example.com:443/", "example.com:443"),
        ("https://api.example.com:8443/", "api.example.com:8443"),
        ("http://standin.standin.svc:8080/v1", "standin.standin.svc:8080"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example:443"),
    ],
)
def test_listed_hosts_are_let_through(url: str, address: str) -> None:
    """What the template lists, and what the platform opens inside the cluster, may be called."""
    assert POLICY.target(url).address == address


@given(st.text(max_size=60))
def test_nothing_but_listed_hosts_is_let_through(text: str) -> None:
    """Whatever is written after the scheme, only a listed host is ever accepted."""
    try:
        endpoint = POLICY.target("https://" + text)
    except StepFailed:
        return

    assert endpoint.address in {"example.com:443", "api.example.com:8443", "xn--bcher-kva.example:443"}


def endpoint(host: str, scheme: str = "https", port: int = 443) -> Endpoint:
    return Endpoint(scheme=scheme, host=host, port=port)


@pytest.mark.parametrize(
    ("slot", "where", "owner", "said"),
    [
        ("key", endpoint("api.example.com"), ("api.example.com",), "not in the slot's hosts"),
        ("key", endpoint("example.com"), ("other.example",), "not in the credential's hosts"),
        ("key", endpoint("example.com"), (), "not in the credential's hosts"),
        ("key", endpoint("example.com", "http", 80), ("example.com",), "over https only"),
        ("ghost", endpoint("example.com"), ("example.com",), "is not bound"),
    ],
)
def test_a_credential_goes_only_where_both_lists_say(
    slot: str, where: Endpoint, owner: tuple[str, ...], said: str
) -> None:
    """The slot's hosts and the credential's hosts must both name the host; in the clear it never goes out."""
    with pytest.raises(StepFailed, match=said):
        POLICY.check_credential(slot, where, owner)


def test_a_credential_may_go_to_an_opened_host_in_the_clear() -> None:
    """Inside the cluster, where the platform opened the host, plain http may carry a credential."""
    inside = endpoint("standin.standin.svc", "http", 8080)

    POLICY.check_credential("inside", inside, ("standin.standin.svc:8080",))
    POLICY.check_credential("key", endpoint("example.com"), ("example.com",))
