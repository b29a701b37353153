"""What holds for every test."""

import asyncio

from hypothesis import settings

# Said once, asyncio no longer makes a loop for whoever asks for the current one: pytest-asyncio asks
# before it sets its own, and the loop made for it would be found unclosed by some later test.
asyncio.set_event_loop(None)

pytest_plugins = ["tests.cluster.fixtures"]

# How long an example takes says what else the machine does: speed is measured in tests/bench.
settings.register_profile("everesthood", deadline=None)
settings.load_profile("everesthood")
