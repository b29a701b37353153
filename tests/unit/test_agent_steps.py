"""agent steps: the conversation, its tools, its bounds, and what is left when a worker dies."""

import asyncio
from typing import Any

import msgspec
import pytest
from tests.support.worker import (
    Credentials,
    Journal,
    Way,
    agent,
    assignment,
    doing,
    execute,
    output_of,
    raw,
    step,
)

from everesthood.apis.reasons import Reason
from everesthood.apis.wire import CredentialLease, Finish, StepRecord
from everesthood.domain.errors import OutcomeUnknown, StepFailed
from everesthood.usecases.ports.worker import Answer, Call

SECRET = "sk-canary-7f3a9c"
LOOK: dict[str, Any] = {
    "name": "look", "description": "Look an article up.",
    "parameters": {"properties": {"id": {"type": "integer"}}, "required": ["id"]},
    "http": {"url": "https://shop.example/articles/{{ args.id }}?by={{ input.who }}", "credential": "shop"},
}  # fmt: skip
BUY: dict[str, Any] = {
    "name": "buy", "description": "Buy it.",
    "http": {"url": "https://shop.example/orders", "method": "POST", "json": "{'article': args.id, 'for': input.who}"},
}  # fmt: skip
JSON = {"content-type": "application/json"}
END = "It costs 7."


def says(
    content: str | None = END, *calls: tuple[str, object], used: tuple[int, int] = (10, 5), **more: Any
) -> Answer:
    """Return a completion: a text, or tools to call."""
    wanted = [
        {
            "id": f"id-{n}", "type": "function",
            "function": {"name": name, "arguments": args if isinstance(args, str) else msgspec.json.encode(args).decode()},
        }
        for n, (name, args) in enumerate(calls)
    ]  # fmt: skip
    message = {"role": "assistant", "content": content, **({"tool_calls": wanted} if wanted else {})}
    usage = {"prompt_tokens": used[0], "completion_tokens": used[1]}
    body = {
        "model": "small-1",
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": usage,
        **more,
    }
    return Answer(status=200, headers=JSON, body=msgspec.json.encode(body))


def calls(*wanted: tuple[str, object], **more: Any) -> Answer:
    return says(None, *wanted, **more)


class World(Way):
    """A model that says one thing after another, and a shop."""

    def __init__(self, *turns: Any, shop: Any = None) -> None:
        super().__init__(self._reply)
        self.turns = list(turns)
        self.asked: list[dict[str, Any]] = []
        self.bought: list[Call] = []
        self.shop = shop or Answer(status=200, headers=JSON, body=b'{"cents":700}')

    def _reply(self, call: Call) -> Answer:
        if call.url.endswith("/chat/completions"):
            self.asked.append(msgspec.json.decode(call.content or b""))
            found = self.turns.pop(0)
        else:
            self.bought.append(call)
            found = self.shop
        if isinstance(found, BaseException):
            raise found
        return found

    def told(self, turn: int) -> str:
        """Return the last thing that the model was told before a turn."""
        content: str = self.asked[turn - 1]["messages"][-1]["content"]
        return content


async def run(
    world: World,
    *tools: dict[str, Any],
    journal: Journal | None = None,
    past: tuple[StepRecord, ...] = (),
    fields: dict[str, Any] | None = None,
    deadline: float = 60.0,
    **member: Any,
) -> Finish:
    whole = {
        "endpoint": "https://models.example/v1/", "model": "{{ config.model }}", "credential": "models",
        "instructions": "Be brief.", "prompt": "What does {{ input.what }} cost?", "tools": tools, **member,
    }  # fmt: skip
    what = agent(step("ask", agent=whole, **(fields or {})), config={"model": "small"})
    given = assignment(value={"what": "tea", "who": "ann"}, steps=past, deadline=deadline)
    credentials = Credentials(shop=CredentialLease(type="Bearer", value=SECRET))
    return await execute(what, given, journal=journal, by=doing(world, credentials))


async def test_a_model_works_with_its_tools_to_a_final_answer() -> None:
    """The model is given tools, its calls are made, the answers told, and its last words are the output."""
    world = World(calls(("look", {"id": 3})), says(used=(20, 6)))
    finish = await run(world, LOOK, BUY)

    first, second = world.asked
    assert output_of(finish) == {
        "content": END, "usage": {"inputTokens": 30, "outputTokens": 11}, "model": "small-1", "turns": 2,
    }  # fmt: skip
    assert first["model"] == "small"
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What does tea cost?"},
    ]  # fmt: skip
    assert first["tools"][0]["function"] == {
        "name": "look", "description": "Look an article up.", "parameters": {"type": "object", **LOOK["parameters"]},
    }  # fmt: skip
    assert first["tools"][1]["function"]["parameters"] == {"type": "object"}
    assert second["messages"][2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"id":3}'}
    assert second["messages"][3] == {
        "role": "tool", "tool_call_id": "id-0", "content": '{"status":200,"body":{"cents":700}}',
    }  # fmt: skip
    assert world.bought[0].url == "https://shop.example/articles/3?by=ann"
    assert world.bought[0].credential == "shop"


async def test_an_agent_without_tools_answers_at_once() -> None:
    """No tools are offered where there are none."""
    world = World(says())
    finish = await run(world)

    assert output_of(finish)["turns"] == 1
    assert "tools" not in world.asked[0]


async def test_each_turn_and_each_call_is_a_checkpoint() -> None:
    """What the model says and what each tool answers is written; a POST is announced first."""
    journal = Journal()
    await run(World(calls(("look", {"id": 3}), ("buy", {"id": 3})), says()), LOOK, BUY, journal=journal)

    assert journal.history == [
        ("ask/turn1", "succeeded"), ("ask/turn1/call1", "succeeded"), ("ask/turn1/call2", "started"),
        ("ask/turn1/call2", "succeeded"), ("ask/turn2", "succeeded"), ("ask", "succeeded"),
    ]  # fmt: skip
    assert msgspec.json.decode(journal.records["ask/turn1"].output)["toolCalls"][1]["name"] == "buy"


class Killed(Exception):
    """The worker is gone."""


@pytest.mark.parametrize("dies_after", range(7))
async def test_wherever_the_worker_dies_no_completed_call_is_repeated(dies_after: int) -> None:
    """The next attempt goes on with the turn or the tool call that was not finished."""
    script = [calls(("look", {"id": 1}), ("look", {"id": 2})), calls(("look", {"id": 3})), says()]
    record: dict[str, StepRecord] = {}
    first = World(*script)

    class Mortal(Journal):
        def note(self, written: StepRecord) -> None:
            if len(record) >= dies_after:
                raise Killed
            record[written.name] = written

    with pytest.raises(Killed):
        await run(first, LOOK, journal=Mortal())
    turns = sum("/call" not in name and "/turn" in name for name in record)
    looked = sum("/call" in name for name in record)
    second = World(*script[turns:])
    finish = await run(second, LOOK, past=tuple(record.values()))

    assert output_of(finish)["content"] == END
    assert output_of(finish)["usage"] == {"inputTokens": 30, "outputTokens": 15}
    assert len(second.asked) == 3 - turns
    assert len(second.bought) == 3 - looked


async def test_another_try_goes_on_where_the_first_one_failed() -> None:
    """With retry, turns that were made are not made again."""
    busy = Answer(status=429, headers={}, body=b"")
    world = World(calls(("look", {"id": 1})), busy, says())
    finish = await run(world, LOOK, fields={"retry": {"maxAttempts": 2}})

    assert output_of(finish)["turns"] == 2
    assert (len(world.asked), len(world.bought)) == (3, 1)


async def test_a_purchase_under_way_when_its_worker_died_is_not_repeated() -> None:
    """A resumed agent that finds a POST started stops for a person, and asks nobody anything."""
    journal = Journal()
    await run(World(calls(("buy", {"id": 3})), says()), BUY, journal=journal)
    past = (journal.records["ask/turn1"], StepRecord(name="ask/turn1/call1", state="started"))
    world = World()
    finish = await run(world, BUY, past=past)

    assert (finish.outcome, finish.reason, world.calls) == ("ambiguous", Reason.OUTCOME_UNKNOWN, [])
    assert finish.message.startswith("steps.ask: tool buy: it was under way when its worker died")


@pytest.mark.parametrize(
    "shop", [OutcomeUnknown("it broke off", transient=True), Answer(status=504, headers={}, body=b"")]
)
async def test_an_unknown_outcome_of_a_purchase_is_the_runs(shop: object) -> None:
    """A POST that may have arrived is not told to the model, which might try again."""
    world = World(calls(("buy", {"id": 3})), shop=shop)
    finish = await run(world, BUY, fields={"retry": {"maxAttempts": 3}})

    assert finish.outcome == "ambiguous"
    assert (len(world.asked), len(world.bought)) == (1, 1)


async def test_an_idempotent_agent_may_repeat_its_calls() -> None:
    """With idempotent: true nothing is announced, and a broken call is told to the model."""
    journal = Journal()
    world = World(calls(("buy", {"id": 3})), says(), shop=OutcomeUnknown("it broke off", transient=True))
    finish = await run(world, BUY, journal=journal, fields={"idempotent": True})

    assert finish.outcome == "succeeded"
    assert world.told(2) == "error: tool buy: it broke off"
    assert ("ask/turn1/call1", "started") not in journal.history


async def test_each_purchase_has_an_idempotency_key_of_its_own() -> None:
    """Two calls of a tool differ; the same call of a repeated run does not."""
    keys = []
    for _ in range(2):
        world = World(calls(("buy", {"id": 3}), ("buy", {"id": 3})), says())
        await run(world, BUY)
        keys.append([dict(call.headers)["Idempotency-Key"] for call in world.bought])

    assert keys[0] == keys[1]
    assert len(set(keys[0])) == 2


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (("sell", {}), "error: there is no tool sell; there are look, buy"),
        (("look", "{"), "error: the arguments are not JSON"),
        (("look", "[1]"), "error: the arguments are not an object"),
        (("look", "[" * 100_000), "error: the arguments are not JSON"),
        (("look", {"id": "three"}), "error: the arguments do not match the parameters: /id: "),
        (("look", ""), "error: the arguments do not match the parameters: /: "),
        (("buy", {}), "error: json: "),
    ],
)
async def test_what_a_model_gets_wrong_is_told_to_it(wanted: tuple[str, object], told: str) -> None:
    """A tool that is not there, or arguments that do not fit, call nothing and end nothing."""
    world = World(calls(wanted), says())
    finish = await run(world, LOOK, BUY)

    assert finish.outcome == "succeeded"
    assert world.told(2).startswith(told)
    assert world.bought == []


@pytest.mark.parametrize(
    ("shop", "told"),
    [
        (
            Answer(status=404, headers=JSON, body=b'{"error":"none"}'),
            '{"status":404,"body":{"error":"none"}}',
        ),
        (Answer(status=500, headers={}, body=b"oh"), '{"status":500,"body":"oh"}'),
        (
            StepFailed("GET shop.example cannot be reached", transient=True),
            "error: GET shop.example cannot be reached",
        ),
        (StepFailed("not on the list", Reason.HOST_REFUSED), "error: not on the list"),
        (OutcomeUnknown("it broke off", transient=True), "error: tool look: it broke off"),
        (Answer(status=200, headers=JSON, body=b"{"), "error: the answer says that it is JSON but is not"),
    ],
)
async def test_a_failing_tool_is_told_to_the_model(shop: object, told: str) -> None:
    """Statuses come with their bodies, failures as a sentence."""
    world = World(calls(("look", {"id": 1})), says(), shop=shop)

    assert (await run(world, LOOK)).outcome == "succeeded"
    assert world.told(2) == told


async def test_a_missing_credential_ends_the_step() -> None:
    """That is nothing a model could mend."""
    lost = StepFailed("credential slot shop is not bound", Reason.CREDENTIAL_NOT_BOUND)
    finish = await run(World(calls(("look", {"id": 1})), shop=lost), LOOK)

    assert (finish.outcome, finish.reason) == ("failed", Reason.CREDENTIAL_NOT_BOUND)


async def test_no_credential_reaches_the_model_or_the_record() -> None:
    """A server that sends the credential back, and a model that repeats it, find it taken out."""
    journal = Journal()
    echo = Answer(status=200, headers=JSON, body=msgspec.json.encode({"you sent": SECRET}))
    world = World(calls(("look", {"id": 1})), says(f"key {SECRET}"), shop=echo)
    finish = await run(world, LOOK, journal=journal)

    kept = b"".join(bytes(record.output) for record in journal.records.values())
    assert SECRET not in world.told(2)
    assert SECRET.encode() not in kept + bytes(finish.output)
    assert output_of(finish)["content"] == "key [credential]"


async def test_a_long_answer_is_cut_for_the_model() -> None:
    """A model is told at most 40,000 characters of an answer, and that there was more."""
    world = World(
        calls(("look", {"id": 1})), says(), shop=Answer(status=200, headers={}, body=b"x" * 200_000)
    )
    await run(world, LOOK)

    assert len(world.told(2)) < 40_100
    assert world.told(2).endswith("… cut, it had 200024 characters")


async def test_turns_are_bounded() -> None:
    """A model that never comes to an end fails at maxTurns, before tools whose answers nobody would read."""
    world = World(*[calls(("look", {"id": 1}))] * 5)
    finish = await run(world, LOOK, maxTurns=3)

    assert finish.message == "steps.ask: the model gave no final answer in 3 turns, which is maxTurns"
    assert (len(world.asked), len(world.bought)) == (3, 2)


async def test_tokens_are_bounded() -> None:
    """Once maxTokens are used, no tool and no turn is begun; a last answer above it stands."""
    world = World(*[calls(("look", {"id": 1}), used=(90, 10))] * 5)
    over = await run(world, LOOK, maxTokens=150)
    last = await run(World(says(used=(900, 10))), maxTokens=150)

    assert over.message == "steps.ask: it used 200 tokens without coming to an end, maxTokens is 150"
    assert (len(world.asked), len(world.bought), last.outcome) == (2, 1, "succeeded")


async def test_tokens_are_guessed_where_the_endpoint_does_not_count() -> None:
    """Without `usage`, four bytes count as a token, so that the bound still holds."""
    world = World(calls(("look", {"id": 1}), usage=None))
    finish = await run(world, LOOK, maxTokens=20)

    assert finish.message.startswith("steps.ask: it used ")


@pytest.mark.parametrize(
    ("turn", "reason", "said"),
    [
        (
            Answer(status=401, headers={}, body=b""),
            Reason.STEP_FAILED,
            "the model at models.example answered 401",
        ),
        (
            Answer(status=200, headers=JSON, body=b"{}"),
            Reason.OUTPUT_INVALID,
            "the endpoint's answer is not an OpenAI-compatible chat completion",
        ),
        (
            calls(*[("look", {"id": 1})] * 21),
            Reason.OUTPUT_INVALID,
            "the model wants 21 tool calls in one turn, the most is 20",
        ),
        (OutcomeUnknown("it broke off", transient=True), Reason.STEP_FAILED, "it broke off"),
        (says("x" * 1_100_000), Reason.OUTPUT_TOO_LARGE, "what the model says is too large"),
    ],
)
async def test_a_model_that_cannot_be_worked_with_fails_the_step(
    turn: object, reason: str, said: str
) -> None:
    """Whatever the endpoint answers, the run ends in a sentence."""
    finish = await run(World(turn), LOOK)

    assert (finish.outcome, finish.reason) == ("failed", reason)
    assert finish.message.startswith(f"steps.ask: {said}")


async def test_a_template_that_fails_names_its_field() -> None:
    """An error in prompt, instructions, model or endpoint says which."""
    finish = await run(World(), prompt="{{ input.missing }}")

    assert finish.message.startswith("steps.ask: prompt: ")


class Hanging(World):
    """A shop that never answers."""

    def __init__(self, *turns: Any) -> None:
        super().__init__(*turns)
        self.begun = asyncio.Event()
        self.release = asyncio.Event()

    async def send(self, call: Call) -> Answer:
        if "shop.example" in call.url:
            self.begun.set()
            await self.release.wait()
        return await super().send(call)


@pytest.mark.parametrize(("tool", "outcome"), [(LOOK, "failed"), (BUY, "ambiguous")])
@pytest.mark.parametrize("what", ["the step", "the run"])
async def test_running_out_of_time_in_a_tool(tool: dict[str, Any], outcome: str, what: str) -> None:
    """Only in the middle of what must not be repeated is the outcome unknown."""
    world = Hanging(calls((tool["name"], {"id": 1})))
    limits: dict[str, Any] = {"deadline": 0.2} if what == "the run" else {"fields": {"timeoutSeconds": 1}}
    finish = await run(world, tool, **limits)

    assert finish.outcome == outcome


async def test_a_purchase_comes_to_its_end_when_another_step_fails() -> None:
    """The call in flight is waited for and written; the model is not asked again."""
    world = Hanging(calls(("buy", {"id": 1})), says())
    journal = Journal()
    member = {
        "endpoint": "https://models.example/v1", "model": "m", "instructions": "", "prompt": "", "tools": [BUY],
    }  # fmt: skip
    bad = step("bad", http={"url": "https://other.example/"})

    async def fails() -> None:
        await world.begun.wait()
        asyncio.get_running_loop().call_later(0.02, world.release.set)

    class Both(Way):
        async def send(self, call: Call) -> Answer:
            if "other.example" not in call.url:
                return await world.send(call)
            await fails()
            return Answer(status=404, headers={}, body=b"")

    finish = await execute(
        agent(step("ask", agent=member), bad),
        assignment(value={"who": "ann"}),
        journal=journal,
        by=doing(Both()),
    )

    assert (finish.outcome, finish.message) == ("failed", "steps.bad: GET other.example answered 404")
    assert journal.records["ask/turn1/call1"].state == "succeeded"
    assert (len(world.asked), "ask" in journal.records) == (1, False)


async def test_an_agent_inside_a_loop_works_for_each_item() -> None:
    """Checkpoints and keys are the item's own."""
    journal = Journal()
    world = World(calls(("buy", {"id": 1})), says("one"), calls(("buy", {"id": 2})), says("two"))
    member = {
        "endpoint": "https://models.example/v1", "model": "m", "instructions": "", "prompt": "{{ item }}",
        "tools": [{**BUY, "http": {**BUY["http"], "json": "[args.id, item, index]"}}],
    }  # fmt: skip
    inner = {"name": "ask", "agent": member}
    loop = step("loop", forEach={"items": "input", "maxParallel": 1, "steps": [inner]})
    finish = await execute(agent(loop), assignment(value=["a", "b"]), journal=journal, by=doing(world))

    assert [item["content"] for item in output_of(finish)] == ["one", "two"]
    assert [call.content for call in world.bought] == [b'[1,"a",0]', b'[2,"b",1]']
    assert "loop[1].ask/turn1/call1" in journal.records
    assert raw("x") != journal.records["loop[0].ask/turn1/call1"].output
