"""What a worker's broker password promises."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.domain.broker import broker_password, password_digest
from everesthood.domain.errors import Invalid

KEY = b"0123456789abcdef0123456789abcdef"
uids = st.uuids().map(str)


def test_the_password_is_the_documented_one():
    """Scheduler and gateway of different versions agree: the derivation never changes."""
    password = broker_password(KEY, "5f0c7f5e-6d0b-4a57-9a52-0a7a3d1f3f10")

    assert password == "VCZI--7M8vus4_QDW3Ezlk4QJCaUbNQe8OYeT_OwzXY"


@given(uids, uids)
def test_no_two_instances_share_a_password(one, other):
    """Who knows one instance's password knows no other's."""
    assert (broker_password(KEY, one) == broker_password(KEY, other)) == (one == other)


@given(uids, st.binary(min_size=32, max_size=64))
def test_a_password_fits_into_an_address_unquoted_and_holds_256_bits(uid, key):
    """A password survives being part of a URL."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", broker_password(key, uid))


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 31])
def test_a_short_key_is_refused(key):
    """An empty or cut key file never yields guessable passwords."""
    with pytest.raises(Invalid, match="at least 32 bytes"):
        broker_password(key, "uid")


def test_the_digest_is_what_redis_keeps():
    """The form that is sent is the SHA-256 in hex, as ACL SETUSER wants it."""
    assert password_digest("secret") == "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
