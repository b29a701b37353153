"""Who may use a credential, where it may go, and what a fingerprint tells."""

import pytest

from everesthood.apis.reasons import Reason
from everesthood.domain.credentials import fingerprint, refusal, sendable_hosts, usable
from everesthood.domain.errors import Forbidden

KEY = b"k" * 32


@pytest.mark.parametrize(
    ("allowed", "hosts", "refused"),
    [
        ((), ("a",), False),
        (("greeter",), ("a",), False),
        (("other",), ("a",), True),
        ((), (), True),
    ],
)
def test_a_credential_is_for_whom_it_names(allowed, hosts, refused):
    """An empty list allows every instance; nowhere to send it is a refusal."""
    said = refusal(name="key", instance="greeter", allowed_instances=allowed, hosts=hosts)

    assert (said is not None) == refused
    if said is not None:
        assert isinstance(said, Forbidden)
        assert said.reason is Reason.CREDENTIAL_NOT_ALLOWED


def test_a_value_goes_only_where_slot_and_credential_agree():
    """Both lists must name the host."""
    assert sendable_hosts(("a", "b:8443", "c"), {"c", "b:8443", "d"}) == ("b:8443", "c")
    assert sendable_hosts(("a",), ()) == ()


def test_a_fingerprint_tells_values_apart_and_nothing_else():
    """It is short, keyed, stable, and changes with the value and with the key."""
    mark = fingerprint(KEY, "secret")

    assert len(mark) == 16
    assert fingerprint(KEY, "secret") == mark
    assert len({mark, fingerprint(KEY, "Secret"), fingerprint(b"x" * 32, "secret")}) == 3


@pytest.mark.parametrize(("value", "used"), [("a\n", "a"), ("a\r\n", "a"), (" a ", " a "), ("a\nb", "a\nb")])
def test_a_line_end_is_no_part_of_a_value(value, used):
    """Files end with a line end; headers must not."""
    assert usable(value) == used
