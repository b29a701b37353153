"""The SDK of code agents: what a function named by a `code` step is given, and nothing else of ours.

    from everesthood.sdk import Context

    async def main(ctx: Context) -> dict[str, object]:
        page = await ctx.step("fetch", fetch, ctx.input["url"])
        ...

A function may be `async` or plain; a plain one runs in a thread of its own and uses `ctx.wait(...)`
for what must be awaited. An async function must not block: it shares its loop with other runs.
"""

from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.sdk.calls import Http, Request, Response
from everesthood.sdk.context import Context, Engine, Run
from everesthood.sdk.leases import Credential
from everesthood.sdk.models import Answer, Llm, Message, Prompt

__all__ = [
    "Answer",
    "Context",
    "Credential",
    "Engine",
    "Http",
    "Llm",
    "Message",
    "OutcomeUnknown",
    "Prompt",
    "Request",
    "Response",
    "Run",
    "StepFailed",
]
