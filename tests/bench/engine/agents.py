"""Code agents of the benchmarks."""

import asyncio

from everesthood.sdk import Context

NAP_SECONDS = 0.1


async def nap(ctx: Context) -> None:
    """Wait as a step on the network does."""
    await asyncio.sleep(NAP_SECONDS)


async def linger(ctx: Context) -> None:
    """Wait for as long as the input says: a worker is to die meanwhile."""
    await asyncio.sleep(ctx.input["seconds"])
