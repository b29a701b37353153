"""Code agents for tests: what authors write."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from everesthood.sdk import Context, StepFailed

CALLS: list[str] = []
HOLD = threading.Event()
BOTH = threading.Barrier(2)
NOT_A_FUNCTION = 1


async def echo(ctx: Context) -> Any:
    return {
        "input": ctx.input,
        "config": ctx.config,
        "args": ctx.args,
        "run": [ctx.run.id, ctx.run.attempt, ctx.run.request_id],
    }


def plain(ctx: Context) -> Any:
    """A plain function: in a thread, with `ctx.wait` for what must be awaited."""
    ctx.log("from a thread")
    ctx.usage("pages", 2)
    doubled = ctx.wait(ctx.step("double", lambda n: n * 2, ctx.input))
    return [threading.current_thread() is not threading.main_thread(), doubled]


async def pieces(ctx: Context) -> Any:
    """Three pieces, the last of which may fail."""

    async def work(name: str) -> str:
        CALLS.append(name)
        if name == ctx.input.get("fails") and ctx.run.attempt == 1:
            raise ValueError("not today")
        return name.upper()

    found = [await ctx.step("piece", work, name) for name in ("a", "b")]
    return [*found, await ctx.step("last", work, "c")]


async def pays(ctx: Context) -> Any:
    async def pay() -> str:
        CALLS.append("pay")
        return str((await ctx.http.post(ctx.input, json={"sum": 1})).status)

    return await ctx.step("pay", pay, idempotent=False)


async def fails(ctx: Context) -> Any:
    kind = ctx.input
    if kind == "exit":
        raise SystemExit(3)
    if kind == "final":
        raise StepFailed("not with this input")
    if kind == "secret":
        raise ValueError((await ctx.credential("key")).value)
    raise LookupError("somewhere else")


async def leaks(ctx: Context) -> Any:
    """Does with a credential all that one must not."""
    credential = await ctx.credential("key")
    ctx.log(f"value is {credential.value}")
    ctx.log(repr(credential))
    await ctx.step("kept", lambda: {"value": credential.value})
    return {credential.value: [credential.value, f"Bearer {credential.value}"]}


async def asks(ctx: Context) -> Any:
    answer = await ctx.llm(
        "Rain falls. Rain falls often. Coats help.",
        endpoint=ctx.input["endpoint"],
        model="standin-extractive",
        credential="key",
        output_schema={
            "type": "object",
            "properties": {"summary": {"type": "string"}},
            "required": ["summary"],
        },
    )
    return [answer.content, answer.input_tokens > 0]


async def calls(ctx: Context) -> Any:
    response = await ctx.http.get(ctx.input["url"], headers={"X-A": "1"})
    try:
        (await ctx.http.put(ctx.input["url"] + "missing", content="x")).raise_for_status()
    except StepFailed as error:
        return [response.json(), response.text, response.is_success, error.message]
    return None


def blocks(ctx: Context) -> Any:
    CALLS.append("blocks")
    HOLD.wait(10)
    try:
        ctx.wait(ctx.step("late", lambda: CALLS.append("late")))
    except StepFailed as error:
        CALLS.append(error.message)


def nested(ctx: Context) -> Any:
    """A plain function whose plain pieces wait for each other, as deep as the input says."""

    def piece(left: int) -> int:
        return 1 + ctx.wait(ctx.step(f"piece-{left}", piece, left - 1)) if left else 0

    return piece(ctx.input)


def quits(ctx: Context) -> Any:
    raise SystemExit(3)


async def quits_in_a_piece(ctx: Context) -> Any:
    def plain() -> None:
        raise SystemExit(3)

    async def awaited() -> None:
        raise SystemExit(3)

    return await ctx.step("piece", plain if ctx.input == "plain" else awaited)


async def blocks_in_a_piece(ctx: Context) -> Any:
    return await ctx.step("piece", HOLD.wait, 10)


def waits_for_its_own_thread(ctx: Context) -> Any:
    """What an author's own pool does: a thread that no worker made asks for a piece."""
    BOTH.wait(5)
    with ThreadPoolExecutor(1) as own:
        return own.submit(lambda: ctx.wait(ctx.step("piece", lambda: 1))).result()


async def odd(ctx: Context) -> Any:
    match ctx.input:
        case "name":
            return await ctx.step("a/b", echo)
        case "usage":
            return ctx.usage("tokens", -1)
        case "wait":
            return ctx.wait(ctx.step("a", time.time))
        case "large":
            return await ctx.step("large", lambda: "x" * 1_100_000)
        case "object":
            return await ctx.step("object", object)
        case _:
            return await asyncio.gather(*(ctx.step("same", lambda n=n: n) for n in range(3)))


async def blocks_its_loop(ctx: Context) -> Any:
    """An async function that blocks, as authors write them by mistake, until a test lets it go."""
    CALLS.append("blocks its loop")
    HOLD.wait(30)
    return "let go"


async def where(ctx: Context) -> Any:
    """Returns the loops that a function, its piece and another function see."""

    async def piece() -> int:
        return id(asyncio.get_running_loop())

    return [id(asyncio.get_running_loop()), await ctx.step("piece", piece)]


async def tidies(ctx: Context) -> Any:
    try:
        CALLS.append("waits")
        await asyncio.sleep(30)
    finally:
        CALLS.append("tidied")


async def tidies_long(ctx: Context) -> Any:
    try:
        CALLS.append("waits")
        await asyncio.sleep(30)
    finally:
        CALLS.append("tidies")
        await asyncio.to_thread(HOLD.wait, 10)
        await ctx.step("undo", lambda: CALLS.append("undone"))
