"""The code of the agent that is struck: a piece of work of its own, which a resumed run must not do again."""

from everesthood.sdk import Context


async def work(ctx: Context) -> int:
    """Call the ledger once in a durable piece, and say so in the run's log."""

    async def call() -> int:
        address = f"{ctx.config['ledger']}/{ctx.run.id}/{ctx.run.attempt}/third/0"
        return int((await ctx.http.post(address)).json())

    ctx.log("begins its piece of work")
    return await ctx.step("piece", call)
