"""What holds for every test."""

import asyncio

# Said once, asyncio no longer makes a loop for whoever asks for the current one: pytest-asyncio asks
# before it sets its own, and the loop made for it would be found unclosed by some later test.
asyncio.set_event_loop(None)

pytest_plugins = ["tests.cluster.fixtures"]
