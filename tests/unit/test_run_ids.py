"""Ids of runs sort by time and are read back only in their one form."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everesthood.domain.run_ids import accepted_at, parse, uuid7
from everesthood.domain.runs import RunId

MOMENTS = st.integers(1_577_836_800_000, 7_258_118_400_000).map(
    lambda milliseconds: datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
)
RANDOM = st.binary(min_size=10, max_size=10)


@given(MOMENTS, RANDOM)
def test_an_id_is_a_uuid_of_version_7_with_its_moment(moment, randomness):
    """Any library reads it, and the time of acceptance is in it."""
    made = uuid7(now=moment, randomness=randomness)

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert parse(str(made)) == str(made)
    assert abs(accepted_at(RunId(str(made))) - moment) < timedelta(milliseconds=2)


@given(MOMENTS, RANDOM, RANDOM)
def test_a_later_run_has_a_greater_id(moment, one, other):
    """Lists need no other order than the id's."""
    later = uuid7(now=moment + timedelta(milliseconds=2), randomness=other)

    assert str(uuid7(now=moment, randomness=one)) < str(later)


def test_all_the_randomness_is_used():
    """Two runs of one millisecond differ in 74 bits."""
    full = uuid7(now=datetime(2026, 1, 1, tzinfo=UTC), randomness=b"\xff" * 10)
    empty = uuid7(now=datetime(2026, 1, 1, tzinfo=UTC), randomness=b"\0" * 10)

    assert (full.int ^ empty.int).bit_count() == 74


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "019aaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa",
        "{019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa}",
        "019AAAAA-AAAA-7AAA-8AAA-AAAAAAAAAAAA",
        "019aaaaaaaaa7aaa8aaaaaaaaaaaaaaa",
        "019aaaaa-aaaa-7aaa-8aaa-aaaaaaaaaaaa\n",
        "../../etc/passwd",
    ],
)
def test_no_other_text_is_an_id(text):
    """What is no id never reaches the record."""
    assert parse(text) is None


def test_the_example_of_the_standard_is_an_id():
    """RFC 9562, A.6."""
    standard = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"

    assert parse(standard) == standard
    assert accepted_at(RunId(standard)) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)
    assert UUID(standard).version == 7
