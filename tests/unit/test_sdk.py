"""What authors of code agents import: its surface, and the rehearsal that tests them without a cluster."""

from typing import Any

import pytest
from tests.support import code_agents

from everesthood import sdk
from everesthood.sdk import Answer, Context, Credential, OutcomeUnknown, Response, StepFailed
from everesthood.testing import Rehearsal, WorkerDied


async def shop(ctx: Context) -> dict[str, Any]:
    """Look a price up, pay it, say so."""
    price = await ctx.step("price", look_up, ctx)
    paid = await ctx.step("pay", pay, ctx, price, idempotent=False)
    ctx.log.info(f"paid {price}")
    ctx.usage("payments", 1)
    return {"price": price, "paid": paid}


async def look_up(ctx: Context) -> int:
    response = await ctx.http.get(f"https://shop.example/{ctx.input}")
    return int(response.raise_for_status().json()["price"])


async def pay(ctx: Context, price: int) -> bool:
    response = await ctx.http.post("https://bank.example/", json={"sum": price}, credential="bank")
    return response.is_success


class Shop:
    """Answers calls and remembers them."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def __call__(self, request: sdk.Request) -> Any:
        self.urls.append(request.url)
        return {"price": 7}


def test_an_agent_is_rehearsed_with_the_answers_of_the_test() -> None:
    """Output, checkpoints, log and usage can be looked at."""
    rehearsal = Rehearsal(input="tea", http=Shop())

    assert rehearsal.run(shop) == {"price": 7, "paid": True}
    assert rehearsal.steps == {"price": 7, "pay": True}
    assert rehearsal.lines == [("info", "paid 7")]
    assert rehearsal.usage == {"payments": 1}


def test_a_death_between_pieces_is_rehearsed() -> None:
    """The second attempt does only what the first did not."""
    answers = Shop()
    rehearsal = Rehearsal(input="tea", http=answers, die_before="pay")
    with pytest.raises(WorkerDied):
        rehearsal.run(shop)

    assert rehearsal.run(shop) == {"price": 7, "paid": True}
    assert answers.urls == ["https://shop.example/tea", "https://bank.example/"]
    assert rehearsal.attempt == 2


def test_a_death_in_a_payment_is_rehearsed() -> None:
    """As in a cluster, the next attempt stops instead of paying twice."""
    answers = Shop()
    rehearsal = Rehearsal(input="tea", http=answers, die_in="pay")
    with pytest.raises(WorkerDied):
        rehearsal.run(shop)
    with pytest.raises(OutcomeUnknown):
        rehearsal.run(shop)

    assert answers.urls.count("https://bank.example/") == 1


def test_uses_of_a_name_are_numbered() -> None:
    """The names of checkpoints are those of the record, without the step."""
    rehearsal = Rehearsal(input={})
    rehearsal.run(code_agents.pieces)

    assert list(rehearsal.steps) == ["piece", "piece#2", "last"]


def test_plain_functions_models_and_credentials_are_rehearsed() -> None:
    """A function without async, a model's answer as text or value, a credential by slot."""

    async def all_of_it(ctx: Context) -> Any:
        text = (await ctx.llm("?", endpoint="https://m.example/v1", model="m")).content
        counted = await ctx.llm("?", endpoint="https://m.example/v1", model="n")
        credential = await ctx.credential("key")
        ctx.log.debug("a")
        ctx.log.warning("b")
        ctx.log.error("c")
        return [text, counted.input_tokens, credential.value, repr(credential)]

    def model(prompt: sdk.Prompt) -> Any:
        return (
            "yes" if prompt.model == "m" else Answer(content="", model="n", input_tokens=5, output_tokens=0)
        )

    rehearsal = Rehearsal(llm=model, credentials={"key": "sk-canary"})
    plain = Rehearsal(input=4)

    assert plain.run(code_agents.plain) == [True, 8]
    output = rehearsal.run(all_of_it)
    assert output[:3] == ["yes", 5, "sk-canary"]
    assert "canary" not in output[3]
    assert rehearsal.usage == {"inputTokens": 5}
    assert [level for level, _ in rehearsal.lines] == ["debug", "warning", "error"]


def test_what_a_test_forgot_is_named() -> None:
    """A call without an answer prepared fails with what to give."""

    async def calls(ctx: Context) -> Any:
        return await ctx.http.delete("https://a.example/")

    async def asks(ctx: Context) -> Any:
        return await ctx.llm("?", endpoint="https://a.example", model="m")

    async def needs(ctx: Context) -> Any:
        return await ctx.credential("key")

    for function, said in ((calls, "no `http`"), (asks, "no `llm`"), (needs, "key is not bound")):
        with pytest.raises(StepFailed, match=said):
            Rehearsal().run(function)


def test_answers_can_be_texts_values_or_whole() -> None:
    """A test answers a call in the shape that suits it."""

    async def patch(ctx: Context) -> Any:
        response = await ctx.http.patch("https://a.example/", content="x")
        return [response.status, response.text]

    whole = Response(status=201, headers={}, content=b"made")

    assert Rehearsal(http=lambda _: "text").run(patch) == [200, "text"]
    assert Rehearsal(http=lambda _: whole).run(patch) == [201, "made"]


def test_a_response_that_is_no_json_or_no_success_says_so() -> None:
    """`json` and `raise_for_status` raise StepFailed, transient where another try may help."""
    busy = Response(status=503, headers={}, content=b"<html>")

    with pytest.raises(StepFailed, match="is not JSON"):
        busy.json()
    with pytest.raises(StepFailed, match="answered with 503") as failed:
        busy.raise_for_status()
    assert failed.value.transient


def test_a_credential_does_not_show_its_value() -> None:
    """Neither repr nor str of a credential holds the value."""
    credential = Credential(type="Bearer", value="sk-canary", hosts=("a.example",))

    assert "canary" not in f"{credential!r}{credential}"


def test_the_public_surface_is_what_is_written_down() -> None:
    """Names that authors import do not disappear by accident."""
    assert set(sdk.__all__) == {
        "Answer", "Context", "Credential", "Engine", "Http", "Llm", "Message", "OutcomeUnknown", "Prompt",
        "Request", "Response", "Run", "StepFailed",
    }  # fmt: skip
