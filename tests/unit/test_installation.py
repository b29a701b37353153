"""What workers of an installation share, as its settings say it."""

import pytest

from everesthood.bootstrap.installation import site_of
from everesthood.domain.errors import Invalid
from everesthood.settings import Settings


def settings(**changes):
    return Settings(worker_image="everesthood:1", **changes)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("internal_peers", "{"),
        ("internal_peers", '{"to": []}'),
        ("metrics_peers", "monitoring"),
        ("metrics_peers", '["monitoring"]'),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(name, text):
    """A controller with a wrong list refuses it at its start, by name and in one sentence."""
    with pytest.raises(Invalid, match=rf"^EVERESTHOOD_{name.upper()} must be a JSON list of [^.]+\.$"):
        site_of(settings(**{name: text}))
