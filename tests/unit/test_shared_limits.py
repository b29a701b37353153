"""What the installation allows, as the setting spells it."""

import pytest

from everesthood.bootstrap.limits import shared_limits
from everesthood.domain.errors import Invalid
from everesthood.domain.limits import Limits, OrganizationLimits, Rate, Shared


def test_the_setting_is_read():
    """Organisations that are named have limits and a weight of their own; what is absent or null is no limit."""
    text = """{
        "platform": {"concurrency": 100, "rate": null},
        "organization": {"rate": {"runs": 10, "periodSeconds": 1, "burst": 5}},
        "organizations": {"acme": {"concurrency": 50, "weight": 3}}
    }"""

    assert shared_limits(text) == Shared(
        platform=Limits(concurrency=100),
        organization=OrganizationLimits(rate=Rate(runs=10, period_seconds=1, burst=5)),
        organizations={"acme": OrganizationLimits(concurrency=50, weight=3)},
    )


def test_nothing_set_is_no_limit():
    """The default, and the chart's, limit nobody."""
    for text in ("{}", '{"platform": {}, "organization": {}, "organizations": {}}'):
        assert shared_limits(text) == Shared()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "object"),
        ("{", "EVERESTHOOD_LIMITS"),
        ('{"platform": {"concurrency": 0}}', r"\$.platform.concurrency"),
        ('{"platform": {"weight": 2}}', "weight"),
        ('{"organization": {"rate": {"periodSeconds": 5}}}', "runs"),
        ('{"organizations": {"acme": {"weight": 0}}}', "weight"),
    ],
)
def test_a_setting_that_cannot_be_used_says_where(text, said):
    """The gateway does not start with limits that nobody meant."""
    with pytest.raises(Invalid, match=said):
        shared_limits(text)
