"""What the installation allows, read from the settings."""

from typing import Annotated

import msgspec

from everesthood.domain.errors import Invalid
from everesthood.domain.limits import Limits, OrganizationLimits, Rate, Shared

_Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]


class _Given(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A piece of the setting; null is as good as absent."""


class _Rate(_Given):
    runs: _Count
    period_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 60
    burst: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1


class _Limits(_Given):
    concurrency: _Count | None = None
    rate: _Rate | None = None


class _Organization(_Limits):
    weight: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class _Shared(_Given):
    platform: _Limits = msgspec.field(default_factory=_Limits)
    organization: _Limits = msgspec.field(default_factory=_Limits)
    organizations: dict[str, _Organization] = {}


def shared_limits(text: str) -> Shared:
    """Return the setting's limits.

    Raises:
        Invalid: the setting cannot be used; the message says where.
    """
    try:
        given = msgspec.json.decode(text, type=_Shared)
    except msgspec.DecodeError as error:
        raise Invalid(f"EVERESTHOOD_LIMITS cannot be used: {error}.") from None
    return Shared(
        platform=Limits(concurrency=given.platform.concurrency, rate=_rate(given.platform.rate)),
        organization=_organization(given.organization, 1),
        organizations={name: _organization(one, one.weight) for name, one in given.organizations.items()},
    )


def _organization(given: _Limits, weight: int) -> OrganizationLimits:
    return OrganizationLimits(concurrency=given.concurrency, rate=_rate(given.rate), weight=weight)


def _rate(given: _Rate | None) -> Rate | None:
    if given is None:
        return None
    return Rate(runs=given.runs, period_seconds=given.period_seconds, burst=given.burst)
